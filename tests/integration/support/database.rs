//! The databases that a registry may be in: SQLite always, and the Postgres that the test script starts.
//!
//! Its URL is in `SIDEKEY_TEST_POSTGRES`. Without it the tests say loudly what they leave out, and with `CI=true` they fail.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr as _;
use std::sync::Arc;

use sidekey::registry::store::StoreAccess;
use sidekey::registry::{RegistryLocation, RegistrySettings, RegistryStore};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, Executor as _};

use super::PATIENCE;

/// One database, empty.
pub struct Database {
    pub kind: &'static str,
    pub place: RegistryLocation,
    /// Its Postgres' address.
    pub address: Option<SocketAddr>,
    folder: tempfile::TempDir,
}

/// An SQLite file, and a database of its own in the Postgres where there is one.
pub async fn databases() -> Vec<Database> {
    let mut all = vec![sqlite()];
    all.extend(postgres().await);
    all
}

/// An SQLite file that is not there yet.
pub fn sqlite() -> Database {
    let folder = tempfile::tempdir().expect("a folder");
    Database { kind: "SQLite", place: RegistryLocation::File(folder.path().join("registry.db")), address: None, folder }
}

/// A database of its own in the Postgres.
pub async fn postgres() -> Option<Database> {
    let Ok(url) = std::env::var("SIDEKEY_TEST_POSTGRES") else {
        assert!(std::env::var_os("CI").is_none(), "SIDEKEY_TEST_POSTGRES is not set: run tests/all");
        // Straight to standard error: a test's own output is kept back when it passes.
        let _ = writeln!(
            std::io::stderr(),
            "NOT TESTED with Postgres: SIDEKEY_TEST_POSTGRES is not set (tests/all starts one)"
        );
        return None;
    };
    let options = PgConnectOptions::from_str(&url).expect("a URL").disable_statement_logging();
    let mut connection = PgConnection::connect_with(&options).await.expect("the tests' Postgres answers");
    let name = format!("test_{:x}", sidekey::registry::task::run_number());
    connection.execute(AssertSqlSafe(format!("CREATE DATABASE {name}"))).await.expect("a database");
    let (start, _) = url.rsplit_once('/').expect("a database's name");
    let address = format!("{}:{}", options.get_host(), options.get_port()).parse().expect("an address");
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("url");
    std::fs::write(&file, format!("{start}/{name}\n")).expect("a file");
    Some(Database { kind: "Postgres", place: RegistryLocation::PostgresFile(file), address: Some(address), folder })
}

impl Database {
    /// The lines of a `sidekey.toml` that name it.
    pub fn toml(&self, instance: &str) -> String {
        match &self.place {
            RegistryLocation::File(path) => format!("registry = {path:?}\ninstance = {instance:?}\n"),
            RegistryLocation::PostgresFile(path) => format!("registry_file = {path:?}\ninstance = {instance:?}\n"),
            other => panic!("{other:?}"),
        }
    }

    /// The same database at another address: through something that stands in between.
    pub fn at(&self, address: SocketAddr) -> RegistryLocation {
        let url = self.url().replace(&self.address.expect("a Postgres").to_string(), &address.to_string());
        self.other_url(&url, "elsewhere")
    }

    /// A URL in a file of its own.
    pub fn other_url(&self, url: &str, name: &str) -> RegistryLocation {
        let file = self.folder.path().join(name);
        std::fs::write(&file, url).expect("a file");
        RegistryLocation::PostgresFile(file)
    }

    /// Its URL.
    pub fn url(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("url")).expect("a URL")
    }

    /// The SQLite file.
    pub fn file(&self) -> PathBuf {
        match &self.place {
            RegistryLocation::File(path) => path.clone(),
            other => panic!("{other:?}"),
        }
    }

    /// As an instance of this name sees it.
    pub fn settings(&self, instance: &str) -> RegistrySettings {
        RegistrySettings { place: self.place.clone(), instance: Arc::from(instance) }
    }

    /// Opened by the test, to look into it.
    pub async fn open(&self) -> RegistryStore {
        // The sidecar that makes the tables may be a moment behind.
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let opened = async {
                let store = RegistryStore::open(&self.settings("test"), StoreAccess::Change).await?;
                store.inventory().await.map(|_| store)
            };
            match opened.await {
                Ok(store) => return store,
                Err(error) => assert!(tokio::time::Instant::now() < deadline, "{}: {error}", self.kind),
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }
}

/// Asks again and again until the answer is something; fails with the question's name.
pub async fn until<T>(name: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(tokio::time::Instant::now() < deadline, "never came: {name}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}
