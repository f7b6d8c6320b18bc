#![no_std]
//! The frames between quiz and its agent in the guest.
extern crate alloc;
