use std::ffi::OsStr;
use std::process::Command;

use super::*;
use crate::exec::ssh_agent::{AgentSource, HostAgent, find_program};

const SEARCH_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// An agent that answers every request with a fixed message per type and notes what it saw.
fn fake_agent(folder: &Path) -> (PathBuf, Arc<Mutex<Vec<u8>>>) {
    let path = folder.join("fake");
    let listener = UnixListener::bind(&path).unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&seen);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            while let Ok(Some(message)) = read_message(&mut stream) {
                noted.lock().unwrap().push(message[0]);
                let answer = match message[0] {
                    REQUEST_IDENTITIES => vec![IDENTITIES_ANSWER, 0, 0, 0, 0],
                    SIGN_REQUEST => vec![SIGN_RESPONSE, 1, 2, 3],
                    _ => vec![6],
                };
                write_message(&mut stream, &answer).unwrap();
            }
        }
    });
    (path, seen)
}

fn ask(stream: &mut UnixStream, message: &[u8]) -> Option<Vec<u8>> {
    write_message(stream, message).unwrap();
    read_message(stream).unwrap()
}

#[test]
fn only_listing_and_signing_pass() {
    let folder = tempfile::tempdir().unwrap();
    let (agent, seen) = fake_agent(folder.path());
    let host = HostAgent::open(&AgentSource::Socket(agent), folder.path(), OsStr::new(SEARCH_PATH)).unwrap();
    let socket = host.forward(folder.path(), SocketOwner::default()).unwrap();
    let mut stream = UnixStream::connect(socket.path()).unwrap();
    assert_eq!(ask(&mut stream, &[REQUEST_IDENTITIES]), Some(vec![IDENTITIES_ANSWER, 0, 0, 0, 0]));
    assert_eq!(ask(&mut stream, &[SIGN_REQUEST, 9, 9]), Some(vec![SIGN_RESPONSE, 1, 2, 3]));
    // Adding, removing, locking, smart cards, extensions and what nobody knows.
    for refused in [1, 7, 9, 17, 18, 19, 20, 21, 22, 23, 25, 26, 27, 0, 255] {
        assert_eq!(ask(&mut stream, &[refused, 1, 2]), Some(vec![FAILURE]), "{refused}");
    }
    assert_eq!(*seen.lock().unwrap(), [REQUEST_IDENTITIES, SIGN_REQUEST]);
    let path = socket.path().to_path_buf();
    drop(socket);
    assert!(!path.exists() && !path.parent().unwrap().exists());
    assert_eq!(stream.read(&mut [0]).unwrap(), 0, "the connection was cut");
}

#[test]
fn impossible_lengths_end_the_connection() {
    let folder = tempfile::tempdir().unwrap();
    let (agent, seen) = fake_agent(folder.path());
    let host = HostAgent::open(&AgentSource::Socket(agent), folder.path(), OsStr::new(SEARCH_PATH)).unwrap();
    let socket = host.forward(folder.path(), SocketOwner::default()).unwrap();
    for length in [u32::MAX, 0, 256 * 1024 + 1] {
        let mut stream = UnixStream::connect(socket.path()).unwrap();
        stream.write_all(&length.to_be_bytes()).unwrap();
        let ended = stream.read(&mut [0]);
        assert!(matches!(ended, Ok(0) | Err(_)), "{length}");
    }
    assert!(seen.lock().unwrap().is_empty());
}

#[test]
fn connections_are_bounded() {
    let folder = tempfile::tempdir().unwrap();
    let (agent, _) = fake_agent(folder.path());
    let connections = Arc::new(Connections::default());
    let pairs: Vec<_> = (0..MOST_CONNECTIONS as u64 + 5)
        .map(|number| {
            let (ours, theirs) = UnixStream::pair().unwrap();
            connect(number, theirs, &agent, &connections).unwrap();
            ours
        })
        .collect();
    assert_eq!(connections.open.lock().unwrap().len(), MOST_CONNECTIONS);
    drop(pairs);
    connections.close();
}

#[test]
fn key_files_are_served_by_a_private_agent() {
    if find_program("ssh-agent", OsStr::new(SEARCH_PATH)).is_err() {
        println!("skipped: no ssh-agent");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("key");
    let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key).status().unwrap();
    assert!(made.success());
    let source = AgentSource::from_paths(std::slice::from_ref(&key), None).unwrap();
    assert_eq!(source, AgentSource::Keys(vec![key.clone()]));
    let host = HostAgent::open(&source, folder.path(), OsStr::new(SEARCH_PATH)).unwrap();
    let socket = host.forward(folder.path(), SocketOwner::default()).unwrap();
    let mut stream = UnixStream::connect(socket.path()).unwrap();
    let answer = ask(&mut stream, &[REQUEST_IDENTITIES]).unwrap();
    assert_eq!(answer[..5], [IDENTITIES_ANSWER, 0, 0, 0, 1]);
    drop((socket, host));

    std::fs::write(&key, "no key").unwrap();
    let refused = HostAgent::open(&source, folder.path(), OsStr::new(SEARCH_PATH)).unwrap_err();
    assert!(matches!(refused, SshError::KeyRefused { .. }), "{refused}");
    let missing = HostAgent::open(&source, folder.path(), OsStr::new("/nowhere")).unwrap_err();
    assert!(matches!(missing, SshError::ProgramMissing { program: "ssh-agent" }));
}

#[test]
fn paths_are_a_socket_or_keys() {
    let folder = tempfile::tempdir().unwrap();
    let (agent, _) = fake_agent(folder.path());
    let own = PathBuf::from("/run/own");
    assert_eq!(AgentSource::from_paths(&[], Some(&own)).unwrap(), AgentSource::Socket(own));
    assert!(matches!(AgentSource::from_paths(&[], None), Err(SshError::NoAgent)));
    assert_eq!(
        AgentSource::from_paths(std::slice::from_ref(&agent), None).unwrap(),
        AgentSource::Socket(agent.clone())
    );
    let key = folder.path().join("key");
    std::fs::write(&key, "k").unwrap();
    assert!(matches!(AgentSource::from_paths(&[key, agent], None), Err(SshError::SocketAndKeys { .. })));
}
