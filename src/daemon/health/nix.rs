//! Nix: its database, and its daemon.

use tokio::task::spawn_blocking;

use super::Finding;
use crate::config::NixStore;
use crate::nix::{Daemon, DaemonError, Database, DatabaseError};
use crate::report::one_line;

const DATABASE: &str = "Nix database";
const DAEMON: &str = "Nix daemon";

pub(super) async fn examine(nix: &NixStore) -> Vec<Finding> {
    let (db_path, store_dir) = (nix.db_path(), nix.logical.clone());
    // It may be locked for a while.
    let read = spawn_blocking(move || Ok(Database::open(&db_path, &store_dir)?.uses_wal())).await;
    let database = read.unwrap_or_else(|_| Err(DatabaseError::NotFound { path: nix.db_path() }));
    let daemon = Daemon::connect(&nix.socket, &nix.logical).await;
    let about_daemon = of_daemon(nix, &daemon, &database);
    vec![of_database(nix, &database, daemon.is_ok()), about_daemon]
}

fn of_database(nix: &NixStore, database: &Result<bool, DatabaseError>, daemon_answers: bool) -> Finding {
    let path = nix.db_path();
    match database {
        Ok(true) => Finding::ok(DATABASE, format!("{} can be read, and has a write-ahead log", path.display())),
        Ok(false) => Finding::ok(
            DATABASE,
            format!(
                "{} can be read; it has no write-ahead log (`use-sqlite-wal = false`), so what is read while Nix \
                 writes is read again",
                path.display()
            ),
        ),
        Err(error) if error.is_denied() && daemon_answers => Finding::warning(
            DATABASE,
            format!("{}; the Nix daemon is asked instead, every five to fifteen seconds", one_line(error)),
        )
        .cured_by("let the service run as root where seconds matter; `backfill --roots` needs it, too"),
        Err(error) if error.is_denied() => Finding::trouble(DATABASE, one_line(error))
            .cured_by("let the service run as root, or use Nix 2.15 or newer, whose daemon can be asked instead"),
        Err(error) if error.is_busy() => {
            Finding::warning(DATABASE, one_line(error)).cured_by("that passes; ask again in a moment")
        }
        Err(error) => Finding::trouble(DATABASE, one_line(error)).cured_by(error.hint()),
    }
}

fn of_daemon(nix: &NixStore, daemon: &Result<Daemon, DaemonError>, database: &Result<bool, DatabaseError>) -> Finding {
    let error = match daemon {
        Ok(daemon) => {
            let protocol = daemon.protocol().unwrap_or_default();
            let found = format!("it answers at {}, with protocol {protocol}", nix.socket.display());
            return Finding::ok(DAEMON, found);
        }
        Err(error) => error,
    };
    match (error, database) {
        (DaemonError::NotThere { .. } | DaemonError::TooOld { .. }, Ok(_)) => {
            Finding::ok(DAEMON, format!("{error}; none is needed, since the database can be read"))
        }
        (_, Ok(_)) => Finding::warning(DAEMON, format!("{}; the database can be read without it", one_line(error))),
        (DaemonError::NotThere { .. }, _) => {
            Finding::trouble(DAEMON, one_line(error)).cured_by("start it, if this Nix has one")
        }
        _ => Finding::trouble(DAEMON, one_line(error)),
    }
}
