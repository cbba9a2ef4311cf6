//! The secret that servers over one store share, so that each accepts the tokens of the others.

use crate::calls::Calls;
use crate::error::{Error, Result};
use crate::layout;
use crate::objects::{self, Objects, When};

/// Length of the key in random bytes.
const KEY_BYTES: usize = 32;

/// Returns the key that signs tokens. The first server that asks makes it.
pub async fn signing_key(objects: &dyn Objects) -> Result<String> {
    let key = layout::signing_key();
    loop {
        if let Some((_, bytes)) = Calls::of(objects).read(&key).await? {
            let text = std::str::from_utf8(&bytes).unwrap_or_default().trim();
            let whole = text.len() == KEY_BYTES * 2 && text.bytes().all(|b| b.is_ascii_hexdigit());
            // With an empty key, anybody could sign tokens.
            return if whole { Ok(text.to_string()) } else { Err(Error::Internal(format!("{key} is damaged").into())) };
        }
        let made: String = rand::random::<[u8; KEY_BYTES]>().iter().map(|byte| format!("{byte:02x}")).collect();
        match objects.put(&key, made.into(), When::Absent).await {
            // Read again: the stored key is this server's, or another's that was first.
            Ok(_) | Err(objects::Error::Exists) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
