//! The subcommands of `CLIENT` that tell about connections.

use std::fmt::Write;

use super::args::Arguments;
use super::encode::Reply;
use super::facts::{ClientFacts, Facts};
use super::refusal::Refusal;
use super::session::{Name, Session, check_name};

/// `CLIENT GETNAME`: null when there is none.
pub(super) fn name(session: &Session, reply: &mut Reply<'_>) {
    match session.name() {
        "" => reply.null(),
        name => reply.bulk(name.as_bytes()),
    }
}

/// `CLIENT SETINFO LIB-NAME|LIB-VER value`.
pub(super) fn set_info<'a>(
    session: &mut Session,
    args: Arguments<'a>,
    reply: &mut Reply<'_>,
) -> Result<(), Refusal<'a>> {
    let attribute = args.get(2);
    let (which, what) = if attribute.eq_ignore_ascii_case(b"LIB-NAME") {
        (Name::Library, "lib-name")
    } else if attribute.eq_ignore_ascii_case(b"LIB-VER") {
        (Name::LibraryVersion, "lib-ver")
    } else {
        return Err(Refusal::ClientAttribute(attribute));
    };
    let value = check_name(args.get(3)).map_err(|error| Refusal::Name { what, error })?;
    session.set_name(which, value);
    reply.simple("OK");
    Ok(())
}

/// `CLIENT INFO`.
pub(super) fn info(session: &Session, facts: &Facts<'_>, reply: &mut Reply<'_>) {
    let mut text = String::new();
    push_line(&mut text, &facts.client, session);
    reply.verbatim(&text);
}

/// `CLIENT LIST [TYPE normal|master|replica|pubsub] [ID id ...]`.
pub(super) fn list<'a>(
    session: &Session,
    args: Arguments<'a>,
    facts: &Facts<'_>,
    reply: &mut Reply<'_>,
) -> Result<(), Refusal<'a>> {
    let filter = Filter::read(args)?;
    let mut text = String::new();
    let mut visit = |client: ClientFacts<'_>, session: &Session| {
        if filter.takes(client.id) {
            push_line(&mut text, &client, session);
        }
    };
    visit(facts.client, session);
    (facts.other_clients)(&mut visit);
    reply.verbatim(&text);
    Ok(())
}

/// Which connections are listed.
enum Filter {
    /// Everybody: all are of the type `normal`.
    All,
    /// Nobody: there are no connections of that type.
    None,
    /// These.
    Ids(Vec<u64>),
}

impl Filter {
    fn read(args: Arguments<'_>) -> Result<Filter, Refusal<'_>> {
        if args.len() == 2 {
            return Ok(Filter::All);
        }
        let kind = args.get(2);
        if kind.eq_ignore_ascii_case(b"TYPE") && args.len() == 4 {
            let word = args.get(3);
            let is = |name: &[u8]| word.eq_ignore_ascii_case(name);
            return if is(b"normal") {
                Ok(Filter::All)
            } else if is(b"master") || is(b"replica") || is(b"slave") || is(b"pubsub") {
                Ok(Filter::None)
            } else {
                Err(Refusal::ClientType(word))
            };
        }
        if kind.eq_ignore_ascii_case(b"ID") && args.len() > 3 {
            let ids = args.from(3).map(|id| std::str::from_utf8(id).ok()?.parse().ok());
            let mut ids = ids.collect::<Option<Vec<_>>>().ok_or(Refusal::ClientId)?;
            ids.sort_unstable();
            return Ok(Filter::Ids(ids));
        }
        Err(Refusal::Syntax)
    }

    fn takes(&self, id: u64) -> bool {
        match self {
            Filter::All => true,
            Filter::None => false,
            Filter::Ids(ids) => ids.binary_search(&id).is_ok(),
        }
    }
}

/// One line of `name=value` pairs. Only names that Redis has: some clients refuse others.
fn push_line(text: &mut String, client: &ClientFacts<'_>, session: &Session) {
    let ClientFacts { id, address, local_address, age_s, idle_s } = client;
    writeln!(
        text,
        "id={id} addr={address} laddr={local_address} name={name} age={age_s} \
         idle={idle_s} flags=N db=0 sub=0 psub=0 ssub=0 multi=-1 \
         user=default redir=-1 resp={version} lib-name={library} lib-ver={library_version}",
        name = session.name(),
        version = session.version().number(),
        library = session.name_of(Name::Library),
        library_version = session.name_of(Name::LibraryVersion),
    )
    .expect("a String takes everything");
}
