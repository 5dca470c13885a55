//! `kvorum member`: who is in the cluster, and who comes and goes.

use std::io::{self, Write as _};
use std::time::{Duration, Instant};

use clap::Subcommand;
use kvorum_protocol::{Change, Member, MembersLine, NodeId, Role};

use super::Error;
use super::servers::{ClientError, ClientFlags, pause};
use crate::client::{self, Cause, Client, ErrorKind};

#[derive(Debug, Subcommand)]
pub(super) enum MemberCommand {
    /// Show the members: ids, roles, addresses
    List(ClientFlags),
    /// Add a node, which becomes a voter when it has the log
    ///
    /// Prints the command that starts the new node, and waits for it. It is safe to interrupt that:
    /// the node stays a learner until `kvorum member promote`. An id is never used twice. To
    /// replace a node that is gone for good, remove it first, then add another.
    Add(AddFlags),
    /// Remove a member for good; its id is never used again
    ///
    /// A leader that is removed hands over first. The removed node stops by itself.
    Remove(IdFlags),
    /// Make a learner a voter, once it has the log
    Promote(IdFlags),
    /// Make a voter a learner
    Demote(IdFlags),
}

#[derive(Debug, clap::Args)]
pub(super) struct AddFlags {
    #[command(flatten)]
    client: ClientFlags,
    /// The new node, such as 4=127.0.0.1:6384/127.0.0.1:7384
    #[arg(value_name = "ID=CLIENT/PEER", value_parser = new_member)]
    member: Member,
    /// Leave it a learner
    #[arg(long)]
    learner: bool,
    /// How long to wait until it has the log [default: without end]
    #[arg(long, value_name = "MS")]
    wait_ms: Option<u64>,
}

#[derive(Debug, clap::Args)]
pub(super) struct IdFlags {
    #[command(flatten)]
    client: ClientFlags,
    /// The member
    #[arg(value_name = "ID", value_parser = clap::value_parser!(u16).range(1..))]
    id: u16,
}

fn new_member(text: &str) -> Result<Member, String> {
    Member::parse(text, Role::Learner).map_err(|error| error.to_string())
}

pub(super) fn run(command: &MemberCommand) -> Result<(), Error> {
    match command {
        MemberCommand::List(flags) => {
            let line = flags.client()?.members().map_err(ClientError::Call)?;
            Ok(io::stdout().write_all(table(&line).as_bytes())?)
        }
        MemberCommand::Add(flags) => add(flags),
        MemberCommand::Remove(flags) => {
            change(flags, &Change::Remove(NodeId(flags.id)), "is no member any more, and stops")
        }
        MemberCommand::Promote(flags) => {
            change(flags, &Change::Promote(NodeId(flags.id)), "is a voter now")
        }
        MemberCommand::Demote(flags) => {
            change(flags, &Change::Demote(NodeId(flags.id)), "is a learner now")
        }
    }
}

fn change(flags: &IdFlags, change: &Change, done: &str) -> Result<(), Error> {
    carry_out(&flags.client, &flags.client.client()?, change).map_err(ClientError::Call)?;
    Ok(writeln!(io::stdout(), "node {} {done}", flags.id)?)
}

fn add(flags: &AddFlags) -> Result<(), Error> {
    let client = flags.client.client()?;
    let add = Change::Add(flags.member.clone());
    let id = flags.member.id;
    let before = client.members().map_err(ClientError::Call)?;
    // Whoever was interrupted, and comes again, goes on.
    let is_there = is_done(&add, &before);
    if is_there && is_done(&Change::Promote(id), &before) {
        if flags.learner {
            carry_out(&flags.client, &client, &add).map_err(ClientError::Call)?;
        }
        return Ok(writeln!(io::stdout(), "node {id} is a voter already")?);
    }
    if !is_there {
        let made = carry_out(&flags.client, &client, &add);
        made.or_else(|error| unless_done(&client, &add, error)).map_err(ClientError::Call)?;
    }
    let servers: Vec<&str> = before.members.voters().map(|member| member.client.as_str()).collect();
    let mut out = io::stdout();
    writeln!(out, "node {id} is a learner now; start it, if it does not run yet:")?;
    writeln!(out, "  kvorum serve --id {id} --data DIR --join {}", servers.join(","))?;
    writeln!(out, "  (with the --cluster-secret-file of the others, if they have one)")?;
    if flags.learner {
        return Ok(());
    }
    writeln!(
        out,
        "waiting until it has the log; `kvorum member promote {id}` does that later, too"
    )?;
    promote(flags, &client, id)?;
    Ok(writeln!(out, "node {id} is a voter now")?)
}

/// Asks again and again: the leader knows how far the new node is.
fn promote(flags: &AddFlags, client: &Client, id: NodeId) -> Result<(), Error> {
    let patience = flags.wait_ms.map(Duration::from_millis);
    let deadline = patience.map(|patience| Instant::now() + patience);
    let mut told = String::new();
    loop {
        let promote = Change::Promote(id);
        let made = carry_out(&flags.client, client, &promote);
        match made.or_else(|error| unless_done(client, &promote, error)) {
            Ok(()) => return Ok(()),
            Err(error) => {
                let is_over = deadline.is_some_and(|deadline| Instant::now() >= deadline);
                let may_change = error.kind() == ErrorKind::NotApplied;
                if is_over || !may_change {
                    return Err(ClientError::Call(error).into());
                }
                let words = error.message().unwrap_or_default();
                if *error.cause() == Cause::Busy && told != words {
                    words.clone_into(&mut told);
                    // The line about what is missing begins it.
                    let missing = told.split(", nothing").next().unwrap_or_default();
                    writeln!(io::stdout(), "  {missing}")?;
                }
            }
        }
        pause();
    }
}

/// Changes the members. When the answer is lost it is asked for again, which is harmless: a leader
/// that refuses what was done already does so by a list that is committed.
fn carry_out(flags: &ClientFlags, client: &Client, change: &Change) -> Result<(), client::Error> {
    let deadline = flags.deadline();
    let mut was_lost = false;
    loop {
        match client.change_members(change, None) {
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == ErrorKind::OutcomeUnknown => {
                if Instant::now() >= deadline {
                    return Err(error);
                }
                was_lost = true;
            }
            Err(error) if was_lost && error.kind() == ErrorKind::WrongUsage => {
                return wait_until_done(client, change, deadline, error);
            }
            Err(error) => return Err(error),
        }
        pause();
    }
}

/// What was asked for before is refused now. If that is because it is done, all will know soon; one
/// that has just started may not yet.
fn wait_until_done(
    client: &Client,
    change: &Change,
    deadline: Instant,
    refusal: client::Error,
) -> Result<(), client::Error> {
    while !client.members().is_ok_and(|line| is_done(change, &line)) {
        if Instant::now() >= deadline {
            return Err(refusal);
        }
        pause();
    }
    Ok(())
}

/// A change that somebody else has made meanwhile is refused, and yet there.
fn unless_done(
    client: &Client,
    change: &Change,
    error: client::Error,
) -> Result<(), client::Error> {
    let is_refused = error.kind() == ErrorKind::WrongUsage;
    match is_refused && client.members().is_ok_and(|line| is_done(change, &line)) {
        true => Ok(()),
        false => Err(error),
    }
}

/// Whether the members are as if the change was made.
fn is_done(change: &Change, line: &MembersLine) -> bool {
    let role = |id| line.members.get(id).map(|member| member.role);
    match change {
        Change::Add(new) => line
            .members
            .get(new.id)
            .is_some_and(|member| (&member.client, &member.peer) == (&new.client, &new.peer)),
        Change::Remove(id) => role(*id).is_none(),
        Change::Promote(id) => role(*id) == Some(Role::Voter),
        Change::Demote(id) => role(*id) == Some(Role::Learner),
    }
}

fn table(line: &MembersLine) -> String {
    let mut rows = vec![["id", "role", "client", "peer"].map(str::to_owned)];
    for member in line.members.members() {
        let role = match member.role {
            _ if line.leader == Some(member.id) => "leader",
            Role::Voter => "voter",
            Role::Learner => "learner",
        };
        let peer = if member.peer.is_empty() { "-" } else { &member.peer };
        rows.push([&member.id.to_string(), role, &member.client, peer].map(str::to_owned));
    }
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths = [0, 1, 2, 3].map(width);
    let mut text = String::new();
    for row in &rows {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
        text += cells.collect::<Vec<_>>().join("  ").trim_end();
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_names_everybody() {
        let line = "id=2 leader=1 member=1=a:6381/a:7381 member=12=b:1/b:2 learner=4=d:1/d:2";
        let expected = "\
id  role     client  peer
1   leader   a:6381  a:7381
4   learner  d:1     d:2
12  voter    b:1     b:2
";
        let line = MembersLine::parse(line).unwrap();
        assert_eq!(table(&line), expected);
        assert!(is_done(&Change::parse("add 4=d:1/d:2").unwrap(), &line));
        assert!(!is_done(&Change::parse("add 4=d:1/d:3").unwrap(), &line));
        assert!(is_done(&Change::Remove(NodeId(3)), &line));
        assert!(!is_done(&Change::Promote(NodeId(4)), &line));
        assert!(!is_done(&Change::Demote(NodeId(1)), &line));
    }
}
