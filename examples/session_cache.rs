//! A web application's sessions: logins are stored by one thread in bulk, and looked up by many at
//! the nearest replica, which answers from its own memory but never from before the login.
//!
//! `kvorum demo` in one window; here, with what it printed:
//! `KVORUM_SERVERS=... cargo run --example session_cache`

use std::error::Error;
use std::thread;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use kvorum::client::{
    CallOptions, Client, LogIndex, Options, Outcome, PipelineOptions, Quorum, ReadFrom,
};

const SESSIONS: u32 = 10_000;
const THREADS: u32 = 4;
const LIFETIME_S: u64 = 3600;

fn main() -> Result<(), Box<dyn Error>> {
    let client = Client::connect(servers(), Options::default())?;

    // Everybody comes back after a restart of the application: thousands of logins at once.
    let began = Instant::now();
    let mut pipeline = client.pipeline(PipelineOptions::default())?;
    let expires = now_s()? + LIFETIME_S;
    for user in 0..SESSIONS {
        pipeline
            .set(session(user).as_bytes(), format!("user={user} expires={expires}").as_bytes())?;
    }
    let mut newest = LogIndex(0);
    while let Some((_, result)) = pipeline.next() {
        // A login that fails is an error here, with what is known of its effect.
        if let Outcome::Set { version } = result? {
            newest = newest.max(version);
        }
    }
    println!("{SESSIONS} sessions stored in {:.0?}, durable on a majority", began.elapsed());

    // Each request of a browser looks its session up. Any replica will do, at once, as long as
    // it knows the logins: a user who was told "welcome" is not asked to log in again.
    let nearest = CallOptions {
        read_from: Some(ReadFrom::Nearest),
        read_quorum: Some(Quorum::Count(1)),
        min_version: newest,
        ..CallOptions::default()
    };
    let began = Instant::now();
    let valid = thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|first| {
                let client = client.clone();
                scope.spawn(move || {
                    let mut valid = 0;
                    for user in (first..SESSIONS).step_by((THREADS * 10) as usize) {
                        let found = client.with(nearest).get(session(user)).ok().flatten();
                        valid += u32::from(found.is_some_and(|found| is_valid(&found.value)));
                    }
                    valid
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("it counts")).sum::<u32>()
    });
    println!(
        "{valid} of {} lookups found a valid session in {:.0?}",
        SESSIONS / 10,
        began.elapsed()
    );

    let left = client.delete(session(7))?;
    println!("user 7 logs out: {} session ended; a second time: {}", left.count, {
        client.delete(session(7))?.count
    });
    assert_eq!((valid, client.get(session(7))?), (SESSIONS / 10, None));
    Ok(())
}

fn session(user: u32) -> String {
    format!("session:{user:08x}")
}

fn is_valid(session: &[u8]) -> bool {
    let text = String::from_utf8_lossy(session);
    let expires = text.split("expires=").nth(1).and_then(|expires| expires.parse::<u64>().ok());
    expires.is_some_and(|expires| now_s().is_ok_and(|now| now < expires))
}

fn now_s() -> Result<u64, Box<dyn Error>> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs())
}

fn servers() -> Vec<String> {
    let given = std::env::args().nth(1).or_else(|| std::env::var("KVORUM_SERVERS").ok());
    let servers = given.unwrap_or_else(|| "127.0.0.1:6381,127.0.0.1:6382,127.0.0.1:6383".into());
    servers.split(',').map(str::to_owned).collect()
}
