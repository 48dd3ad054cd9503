//! Tests of all renderers together.
