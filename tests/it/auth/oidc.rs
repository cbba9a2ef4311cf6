//! JWTs of an issuer that runs here and changes its keys.
