//! Little-endian integers of alignment 1, so that a struct of them is its own byte layout.

use bytemuck::{Pod, Zeroable};

macro_rules! little_endian {
    ($(#[$doc:meta])* $name:ident, $int:ty, $bytes:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Default, Pod, Zeroable)]
        #[repr(transparent)]
        pub struct $name([u8; $bytes]);

        impl $name {
            /// The value.
            #[inline]
            pub const fn get(self) -> $int {
                <$int>::from_le_bytes(self.0)
            }
        }

        impl From<$int> for $name {
            #[inline]
            fn from(value: $int) -> $name {
                $name(value.to_le_bytes())
            }
        }

        impl core::fmt::Debug for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                self.get().fmt(f)
            }
        }
    };
}

little_endian!(/// An unsigned 16-bit number.
    U16Le, u16, 2);
little_endian!(/// An unsigned 32-bit number.
    U32Le, u32, 4);
little_endian!(/// An unsigned 64-bit number.
    U64Le, u64, 8);
little_endian!(/// An unsigned 128-bit number: UUIDs and generations.
    U128Le, u128, 16);
