//! The parts that make a collection safe. All of them always hold; only tests built with the feature `mutations` take one
//! away, to see that they notice.

/// Declares the parts: questions whose answer is a constant, and fields with the feature `mutations`.
macro_rules! ingredients {
    ($($name:ident),*) => {
        /// The parts that make a collection safe.
        #[doc(hidden)]
        #[derive(Clone, Copy, Debug, PartialEq)]
        pub struct Ingredients {
            $(#[cfg(feature = "mutations")] pub $name: bool,)*
        }

        impl Ingredients {
            $(pub const fn $name(self) -> bool {
                #[cfg(feature = "mutations")]
                return self.$name;
                #[cfg(not(feature = "mutations"))]
                true
            })*
        }

        impl Default for Ingredients {
            fn default() -> Self {
                Ingredients { $(#[cfg(feature = "mutations")] $name: true,)* }
            }
        }
    };
}

ingredients! {
    age_at_answer, spare, look_for_claim, head_after_list, drop_memory, grace_from_list, re_mark, exclusive_claim,
    list_after_claim, list_before_claim, keep_unanswered, lease, content_before_pointer, record_before_pointer
}
