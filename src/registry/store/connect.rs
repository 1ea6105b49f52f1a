//! Opens the database: migrates its tables, and moves a damaged SQLite file aside, never replacing it silently.

use std::io::Read as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::str::FromStr as _;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPoolOptions};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions as _, Connection as _};

use super::super::{Error, RegistryLocation, RegistrySettings};
use super::failure::classify_error;
use super::sql::DatabasePool;
use super::{IN_MEMORY, RegistryStore};
use crate::pki::printable;

/// The port of a Postgres whose URL cannot be read yet.
const POSTGRES_PORT: u16 = 5432;
/// The migrations, by version.
static MIGRATIONS: Migrator = sqlx::migrate!("src/registry/migrations");

/// Timeout for a lock held by another process, or for a connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections to a Postgres: one for the writer, one for alerts. Readers have one of their own.
const MAX_CONNECTIONS: u32 = 2;
/// How long the connection of readers stays open without being used.
const READER_IDLE: Duration = Duration::from_secs(30);
/// Maximum length of a URL.
const MAX_URL_LENGTH: u64 = 4096;

/// What a store is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreAccess {
    /// For the sidecar: creates what is missing.
    Write,
    /// For a command that changes something: the registry must exist.
    Change,
    /// For a command that only reads, also while a sidecar writes.
    Read,
}

/// A damaged file and its new path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DamagedFile {
    /// The registry's file.
    pub file: PathBuf,
    /// Where its content is now.
    pub kept: PathBuf,
}

impl RegistryStore {
    /// Opens it.
    ///
    /// # Errors
    /// Why it cannot be used; [`Error::Damaged`] only for an SQLite file.
    pub async fn open(settings: &RegistrySettings, access: StoreAccess) -> Result<Self, Error> {
        // Boxed: the compiler cannot see through sqlx's own futures that they may move to another thread.
        let opening: Pin<Box<dyn Future<Output = Result<Self, Error>> + Send>> =
            Box::pin(open_store(settings.clone(), access));
        opening.await
    }

    /// The same registry by a connection of its own, which only reads, and whose thread, where it has one, is of the priority of the thread
    /// that calls. One in memory has no other connection: then it is this one.
    ///
    /// # Errors
    /// Why it cannot be opened.
    pub async fn open_beside(&self) -> Result<Self, Error> {
        // Boxed as above.
        let opening: Pin<Box<dyn Future<Output = Result<DatabasePool, Error>> + Send + '_>> =
            Box::pin(open_reader(&self.pool, &self.place));
        let pool = opening.await?;
        *self.lock_beside() = (self.place != IN_MEMORY).then(|| pool.clone());
        let (instance, place) = (Arc::clone(&self.instance), self.place.clone());
        Ok(Self { pool, instance, place, beside: Arc::default() })
    }

    /// Moves a damaged SQLite file, and its companion files, aside. Nothing is deleted.
    ///
    /// # Errors
    /// The file cannot be renamed: then it stays, and the registry stays down.
    pub fn set_aside(path: &Path, now: Timestamp) -> Result<DamagedFile, Error> {
        let stamp = now.strftime("%Y%m%dT%H%M%SZ");
        let named = |end: &str, path: &Path| {
            let mut name = path.as_os_str().to_owned();
            name.push(end);
            PathBuf::from(name)
        };
        let free = |end: String| Some(named(&end, path)).filter(|kept| !kept.exists());
        let mut ends = std::iter::once(format!(".damaged-{stamp}"));
        let mut more = (2..100).map(|number| format!(".damaged-{stamp}-{number}"));
        let kept = ends.find_map(free).or_else(|| more.find_map(free)).unwrap_or_else(|| named(".damaged", path));
        let wrong = |why| Error::File { file: path.display().to_string(), why };
        std::fs::rename(path, &kept).map_err(wrong)?;
        for end in ["-wal", "-shm"] {
            // They only exist if a process was writing.
            let _ = std::fs::rename(named(end, path), named(end, &kept));
        }
        Ok(DamagedFile { file: path.to_owned(), kept })
    }
}

async fn open_store(settings: RegistrySettings, access: StoreAccess) -> Result<RegistryStore, Error> {
    let (pool, place) = match &settings.place {
        RegistryLocation::Memory if access == StoreAccess::Write => (open_memory().await?, IN_MEMORY.to_owned()),
        RegistryLocation::Memory => return Err(Error::None),
        RegistryLocation::File(path) => (open_file(path, access).await?, path.display().to_string()),
        RegistryLocation::Postgres(url) => connect_postgres(&parse_postgres_url(url, "registry")?, access).await?,
        RegistryLocation::PostgresFile(path) => {
            let url = read_url(path)?;
            connect_postgres(&parse_postgres_url(&url, &printable(&path.display().to_string()))?, access).await?
        }
    };
    if access != StoreAccess::Write {
        let newest = MIGRATIONS.iter().map(|migration| migration.version).max();
        let has =
            pool.fetch_rows::<(i64,)>("SELECT version FROM _sqlx_migrations ORDER BY version DESC LIMIT 1", vec![]);
        let has = has.await.map_err(|error| classify_error(&place, &error))?.first().map(|(version,)| *version);
        if has < newest {
            return Err(Error::Earlier { place });
        }
    }
    Ok(RegistryStore { pool, instance: settings.instance, place, beside: Arc::default() })
}

async fn open_memory() -> Result<DatabasePool, Error> {
    let wrong = |source| classify_error(IN_MEMORY, &source);
    let options = SqliteConnectOptions::new().in_memory(true).disable_statement_logging();
    // The only connection is the database: it must never be closed.
    let pool = SqlitePoolOptions::new().min_connections(1).max_connections(1).idle_timeout(None).max_lifetime(None);
    let pool = pool.connect_with(options).await.map_err(wrong)?;
    MIGRATIONS.run(&pool).await.map_err(|error| migration_error(IN_MEMORY, error))?;
    Ok(DatabasePool::Sqlite(pool))
}

async fn open_file(path: &Path, access: StoreAccess) -> Result<DatabasePool, Error> {
    let place = path.display().to_string();
    let wrong = |source| classify_error(&place, &source);
    check_regular_files(path)?;
    if access == StoreAccess::Write {
        create_file(path).map_err(|why| Error::File { file: place.clone(), why })?;
    }
    if access != StoreAccess::Write && !path.exists() {
        return Err(Error::Missing { place });
    }
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(false)
        .read_only(access == StoreAccess::Read)
        .busy_timeout(ACQUIRE_TIMEOUT)
        // A large sort would need a file in a folder for temporary files, which Landlock denies: "unable to open database file".
        .pragma("temp_store", "MEMORY")
        .disable_statement_logging();
    let options = match access {
        StoreAccess::Read => options,
        StoreAccess::Write | StoreAccess::Change => {
            options.journal_mode(SqliteJournalMode::Wal).synchronous(SqliteSynchronous::Normal)
        }
    };
    let pool = SqlitePoolOptions::new().max_connections(1).acquire_timeout(ACQUIRE_TIMEOUT * 2);
    let pool = pool.connect_with(options).await.map_err(wrong)?;
    if access == StoreAccess::Write {
        let found: String = sqlx::query_scalar("PRAGMA quick_check(1)").fetch_one(&pool).await.map_err(wrong)?;
        if found != "ok" {
            pool.close().await;
            return Err(Error::Damaged { place, why: printable(&found) });
        }
        if let Err(error) = MIGRATIONS.run(&pool).await {
            pool.close().await;
            return Err(migration_error(&place, error));
        }
    }
    Ok(DatabasePool::Sqlite(pool))
}

async fn open_reader(pool: &DatabasePool, place: &str) -> Result<DatabasePool, Error> {
    Ok(match pool {
        DatabasePool::Sqlite(_) if place == IN_MEMORY => pool.clone(),
        DatabasePool::Sqlite(pool) => {
            let options = SqliteConnectOptions::clone(&pool.connect_options()).read_only(true);
            let pool =
                SqlitePoolOptions::new().max_connections(1).acquire_timeout(ACQUIRE_TIMEOUT).idle_timeout(READER_IDLE);
            DatabasePool::Sqlite(pool.connect_with(options).await.map_err(|source| classify_error(place, &source))?)
        }
        DatabasePool::Postgres(pool) => {
            let options = PgConnectOptions::clone(&pool.connect_options());
            let pool =
                PgPoolOptions::new().max_connections(1).acquire_timeout(ACQUIRE_TIMEOUT).idle_timeout(READER_IDLE);
            DatabasePool::Postgres(pool.connect_lazy_with(options))
        }
    })
}

/// SQLite would wait for ever for the other end of a FIFO.
fn check_regular_files(path: &Path) -> Result<(), Error> {
    for end in ["", "-wal", "-shm", "-journal"] {
        let mut name = path.as_os_str().to_owned();
        name.push(end);
        let file = PathBuf::from(name);
        if std::fs::metadata(&file).is_ok_and(|metadata| !metadata.is_file()) {
            let why = std::io::Error::other("it is not a regular file: remove it, or name another file");
            return Err(Error::File { file: file.display().to_string(), why });
        }
    }
    Ok(())
}

/// Creates the file if it does not exist, readable by its owner only: it names peers.
fn create_file(path: &Path) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    // Never waits for the other end of a FIFO.
    let flags = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).expect("this flag fits the kernel's int");
    std::fs::OpenOptions::new().append(true).create(true).mode(0o600).custom_flags(flags).open(path).map(drop)
}

impl RegistryLocation {
    /// Whether it is a Postgres, which several instances may share.
    pub const fn is_postgres(&self) -> bool {
        matches!(self, Self::Postgres(_) | Self::PostgresFile(_))
    }

    /// The port of the database, if it is reached over TCP; that of Postgres where the URL cannot be read yet.
    pub fn port(&self) -> Option<u16> {
        let url = match self {
            Self::Memory | Self::File(_) => return None,
            Self::Postgres(url) => url.clone(),
            Self::PostgresFile(file) => read_url(file).unwrap_or_default(),
        };
        Some(parse_postgres_url(&url, "").map_or(POSTGRES_PORT, |options| options.get_port()))
    }
}

fn read_url(path: &Path) -> Result<String, Error> {
    let file = printable(&path.display().to_string());
    let wrong = |why| Error::File { file: file.clone(), why };
    let mut url = String::new();
    std::fs::File::open(path).and_then(|file| file.take(MAX_URL_LENGTH).read_to_string(&mut url)).map_err(wrong)?;
    Ok(url.trim().to_owned())
}

fn parse_postgres_url(url: &str, file: &str) -> Result<PgConnectOptions, Error> {
    // sqlx's own message might quote the URL, and a password with it.
    let wrong = |why: &str| Error::Url { file: file.to_owned(), why: why.to_owned() };
    if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
        return Err(wrong("expected a URL of the form postgres://USER@HOST/DATABASE"));
    }
    let options = PgConnectOptions::from_str(url)
        .map_err(|_| wrong("invalid URL: expected postgres://USER@HOST/DATABASE, special characters encoded as %XX"))?;
    Ok(options.application_name("sidekey").disable_statement_logging())
}

async fn connect_postgres(options: &PgConnectOptions, access: StoreAccess) -> Result<(DatabasePool, String), Error> {
    let database = options.get_database().unwrap_or_else(|| options.get_username());
    let place = format!("postgres://{}:{}/{database}", options.get_host(), options.get_port());
    // Connect without the pool first: a pool reports every failure as "timed out".
    let slow = || Error::Slow { place: place.clone(), seconds: ACQUIRE_TIMEOUT.as_secs() };
    let connected =
        tokio::time::timeout(ACQUIRE_TIMEOUT, PgConnection::connect_with(options)).await.map_err(|_| slow())?;
    let connection = connected.map_err(|source| classify_error(&place, &source))?;
    // The connection has served its purpose; a failure to close it does not matter.
    let _ = tokio::time::timeout(Duration::from_secs(1), connection.close()).await;
    let pool = PgPoolOptions::new().max_connections(MAX_CONNECTIONS).acquire_timeout(ACQUIRE_TIMEOUT);
    let pool = pool.idle_timeout(Duration::from_mins(5)).connect_lazy_with(options.clone());
    if access == StoreAccess::Write {
        let tables = tokio::time::timeout(ACQUIRE_TIMEOUT * 3, MIGRATIONS.run(&pool)).await.map_err(|_| slow())?;
        tables.map_err(|error| migration_error(&place, error))?;
    }
    Ok((DatabasePool::Postgres(pool), place))
}

fn migration_error(place: &str, error: MigrateError) -> Error {
    let place = place.to_owned();
    match error {
        MigrateError::Execute(source) => classify_error(&place, &source),
        MigrateError::VersionMissing(version) | MigrateError::VersionTooNew(version, _) => {
            Error::Later { place, why: format!("its schema has version {version}") }
        }
        error => Error::Schema { place, why: printable(&error.to_string()) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn no_sort_needs_a_file_outside_the_state_folder() {
        let folder = tempfile::tempdir().unwrap();
        let store = open_in(folder.path()).await;
        let DatabasePool::Sqlite(pool) = &store.pool else { panic!("it is SQLite") };
        let in_memory: i64 = sqlx::query_scalar("PRAGMA temp_store").fetch_one(pool).await.unwrap();
        assert_eq!(in_memory, 2);
    }

    async fn open_in(folder: &Path) -> RegistryStore {
        let settings = RegistrySettings { place: RegistryLocation::File(folder.join("r.db")), instance: "a".into() };
        RegistryStore::open(&settings, StoreAccess::Write).await.unwrap()
    }

    #[tokio::test]
    async fn a_reader_waits_for_no_write_and_cannot_write() {
        let folder = tempfile::tempdir().unwrap();
        let store = open_in(folder.path()).await;
        let _writing = store.pool.begin_transaction().await.unwrap();
        let reader = store.open_beside().await.unwrap();
        let read = tokio::time::timeout(ACQUIRE_TIMEOUT / 2, reader.key_pairs()).await;
        assert!(read.is_ok_and(|read| read.is_ok_and(|inventory| inventory.key_pairs.is_empty())));
        assert!(reader.pool.execute("DELETE FROM peer", vec![]).await.is_err());
    }

    #[tokio::test]
    async fn a_reader_leaves_no_file_behind_when_the_registry_closes() {
        let folder = tempfile::tempdir().unwrap();
        let store = open_in(folder.path()).await;
        let reader = store.open_beside().await.unwrap();
        reader.key_pairs().await.unwrap();
        store.close().await;
        let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["r.db"]);
    }

    #[test]
    fn the_database_reads_at_the_priority_of_the_thread_that_asks() {
        let folder = tempfile::tempdir().unwrap();
        let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let writing = runtime();
        let store = writing.block_on(open_in(folder.path()));
        let read = move || {
            crate::process::lower_thread_priority();
            let reading = runtime();
            let reader = reading.block_on(store.open_beside()).unwrap();
            reading.block_on(reader.key_pairs()).unwrap();
            let lowered = rustix::process::getpriority_process(None).unwrap();
            (lowered, count_database_threads(lowered))
        };
        let (lowered, count) = std::thread::spawn(read).join().unwrap();
        assert!(count >= 1, "no thread of SQLite has the priority {lowered}");
    }

    /// How many of SQLite's threads have this priority (proc(5): the 17th field after the name).
    fn count_database_threads(priority: i32) -> usize {
        let threads = std::fs::read_dir("/proc/self/task").unwrap().filter_map(|thread| {
            // It may have ended meanwhile.
            std::fs::read_to_string(thread.ok()?.path().join("stat")).ok()
        });
        let has = |text: &String| {
            let (name, fields) = text.split_once(") ").unwrap();
            name.contains("sqlx") && fields.split(' ').nth(16) == Some(&priority.to_string())
        };
        threads.filter(has).count()
    }
}
