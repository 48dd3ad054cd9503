//! Every rule of advice, and its borders.
