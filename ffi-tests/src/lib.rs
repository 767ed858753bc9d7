//! The C and C++ side of the C ABI, built and run by tests.
