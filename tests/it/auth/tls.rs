//! Certificates of the server and of its clients.
