//! Starts real programs and servers for the tests, each in its own directory, and always stops them.
