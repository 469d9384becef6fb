//! Little-endian integers of alignment 1, for the fixed structs on disk and on the wire.
//!
//! bytemuck knows no byte order; these do.

use core::fmt;

use bytemuck::{Pod, Zeroable};

macro_rules! little_endian {
    ($name:ident, $int:ty) => {
        #[doc = concat!("A `", stringify!($int), "` as little-endian bytes.")]
        #[derive(Clone, Copy, PartialEq, Eq, Default, Pod, Zeroable)]
        #[repr(transparent)]
        pub struct $name([u8; size_of::<$int>()]);

        impl $name {
            /// From a value.
            pub const fn new(value: $int) -> $name {
                $name(value.to_le_bytes())
            }

            /// The value.
            pub const fn get(self) -> $int {
                <$int>::from_le_bytes(self.0)
            }
        }

        impl From<$int> for $name {
            fn from(value: $int) -> $name {
                $name::new(value)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.get().fmt(f)
            }
        }
    };
}

little_endian!(U16Le, u16);
little_endian!(U32Le, u32);
little_endian!(U64Le, u64);
little_endian!(U128Le, u128);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_little_endian_and_unaligned() {
        assert_eq!(bytemuck::bytes_of(&U32Le::new(0x0102_0304)), [4, 3, 2, 1]);
        assert_eq!(U64Le::new(0x0807_0605_0403_0201).get(), 0x0807_0605_0403_0201);
        assert_eq!(align_of::<U128Le>(), 1);
        assert_eq!(format!("{:?}", U16Le::new(513)), "513");
    }
}
