//! Sockets from systemd, and word to it.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, Stdio};

use tempfile::tempdir;

/// Killed when its test fails.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_listens_on_the_socket_that_it_is_given_and_says_when_it_is_ready() {
    let folder = tempdir().unwrap();
    let notices = folder.path().join("notify");
    let notified = UnixDatagram::bind(&notices).unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    // Asked before there is a server: the socket keeps it.
    let early = tokio::spawn(reqwest::get(format!("http://{address}/v2/")));

    // Descriptor 3 is where systemd puts the first socket; a shell can move it there.
    let mut command = Command::new("sh");
    command.args(["-c", r#"LISTEN_PID=$$ LISTEN_FDS=1 exec "$0" serve 3<&0 </dev/null"#, env!("CARGO_BIN_EXE_larder")]);
    command.env_clear().env("NOTIFY_SOCKET", &notices).current_dir(folder.path());
    command.env("PATH", std::env::var_os("PATH").unwrap());
    // Nothing listens on the configured address, which is nobody's.
    command.env("LARDER_SERVER_LISTEN", r#"["192.0.2.1:1"]"#);
    command.stdin(OwnedFd::from(listener)).stdout(Stdio::null()).stderr(Stdio::inherit());
    let mut larder = Killed(command.spawn().unwrap());

    let notice = move || {
        let mut bytes = [0; 64];
        let read = notified.recv(&mut bytes).unwrap();
        (String::from_utf8_lossy(&bytes[..read]).into_owned(), notified)
    };
    let (told, notified) = tokio::task::spawn_blocking(notice).await.unwrap();
    assert_eq!(told, "READY=1");
    assert_eq!(early.await.unwrap().unwrap().status(), 200);
    let id = rustix::process::Pid::from_child(&larder.0);
    rustix::process::kill_process(id, rustix::process::Signal::TERM).unwrap();
    assert!(larder.0.wait().unwrap().success());
    let mut bytes = [0; 64];
    let read = notified.recv(&mut bytes).unwrap();
    assert_eq!(&bytes[..read], b"STOPPING=1");
}

#[test]
fn what_is_no_tcp_socket_is_refused() {
    let folder = tempdir().unwrap();
    let mut command = Command::new("sh");
    command.args(["-c", r#"LISTEN_PID=$$ LISTEN_FDS=1 exec "$0" serve 3</dev/null"#, env!("CARGO_BIN_EXE_larder")]);
    let refused = command.current_dir(folder.path()).env_remove("NOTIFY_SOCKET").output().unwrap();
    let errors = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && errors.contains("is not TCP"), "{errors}");
}
