//! Checks what a program can check of the house style.
