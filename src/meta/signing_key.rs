//! The secret that servers over one store share, so that each takes what another has issued.

use crate::calls::Calls;
use crate::error::{Error, Result};
use crate::layout;
use crate::objects;
use crate::objects::When;
use crate::store::Store;

/// Random bytes of the key.
const KEY_BYTES: usize = 32;

impl Store {
    /// The key that tokens are signed with. The first server that asks makes it.
    pub async fn signing_key(&self) -> Result<String> {
        let key = layout::signing_key();
        loop {
            if let Some((_, bytes)) = Calls::of(&*self.objects).read(&key).await? {
                let text = std::str::from_utf8(&bytes).unwrap_or_default().trim();
                let whole = text.len() == KEY_BYTES * 2 && text.bytes().all(|b| b.is_ascii_hexdigit());
                // An empty key would sign for everybody.
                return if whole {
                    Ok(text.to_string())
                } else {
                    Err(Error::Internal(format!("{key} is damaged").into()))
                };
            }
            let made: String = rand::random::<[u8; KEY_BYTES]>().iter().map(|byte| format!("{byte:02x}")).collect();
            match self.objects.put(&key, made.into(), When::Absent).await {
                // Ours or, when another server was first, its own: read again.
                Ok(_) | Err(objects::Error::Exists) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}
