//! Which alert has been told at which sink, and who has claimed what is still to be told.
//!
//! A claim is a row: whoever inserts it first, or takes it over after its lease, sends. So an alert arrives at least once
//! and, unless somebody dies between sending and saying so, exactly once, whatever restarts and however many there are.

use std::time::Duration;

use jiff::Timestamp;

use super::super::{Acknowledgement, Delivery, Entry, Error, Seconds};
use super::sql::values;
use super::{Store, days_before};

/// How long a claim holds without a word from who has it.
const LEASE: i64 = 120;
/// How long told alerts are remembered after they were raised: longer than any certificate is warned about.
const DAYS: i64 = 3 * 365;

/// What is to be told at one sink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// Name of the alert, the same on every instance.
    pub alert: String,
    /// The sink.
    pub sink: String,
    /// Stable code.
    pub kind: &'static str,
    /// The keyring, or the trust.
    pub keyring: String,
    /// The pair or certificate it is about.
    pub key_pair: Option<String>,
    /// The last threshold has passed.
    pub urgent: bool,
    /// For mail: to whom.
    pub recipient: Option<String>,
    /// One sentence.
    pub summary: String,
    /// What to do.
    pub remedy: String,
}

impl Store {
    /// Notes an alert for a sink, if nobody has; one that fell silent because it was over is to be told again.
    ///
    /// # Errors
    /// The database.
    pub async fn raise(&self, notice: &Notice, now: Timestamp) -> Result<bool, Error> {
        let sql = "INSERT INTO alert (alert, sink, kind, keyring, key_pair, urgent, recipient, summary, remedy, \
                   raised_by, raised, state, holder, lease_ends, attempts, next_try, error) \
                   VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, 'pending', '', 0, 0, $11, NULL) \
                   ON CONFLICT (alert, sink) DO UPDATE SET urgent = excluded.urgent, summary = excluded.summary, \
                   remedy = excluded.remedy, raised_by = excluded.raised_by, raised = excluded.raised, state = 'pending', \
                   holder = '', lease_ends = 0, attempts = 0, next_try = excluded.next_try, error = NULL \
                   WHERE alert.state = 'silenced'";
        let values = values![
            &notice.alert,
            &notice.sink,
            notice.kind,
            &notice.keyring,
            &notice.key_pair,
            notice.urgent,
            &notice.recipient,
            &notice.summary,
            &notice.remedy,
            &*self.instance,
            now,
        ];
        let touched = self.pool.execute(sql, values).await.map_err(|error| self.wrong(&error))?;
        Ok(touched > 0)
    }

    /// What is still to be told, at most a thousand at once: what waits longest first, so that a sink that takes nothing
    /// does not keep others from being told.
    ///
    /// # Errors
    /// The database.
    pub async fn pending(&self) -> Result<Vec<Delivery>, Error> {
        let sql = "SELECT * FROM alert WHERE state = 'pending' ORDER BY next_try, raised, alert, sink LIMIT 1000";
        self.pool.rows(sql, vec![]).await.map_err(|error| self.wrong(&error))
    }

    /// The names of alerts that have been noted, with their sinks.
    ///
    /// # Errors
    /// The database.
    pub async fn deliveries(&self) -> Result<Vec<Delivery>, Error> {
        let sql = "SELECT * FROM alert ORDER BY raised, alert, sink";
        self.pool.rows(sql, vec![]).await.map_err(|error| self.wrong(&error))
    }

    /// Takes what is due and nobody else has: true = it is ours to send.
    ///
    /// # Errors
    /// The database.
    pub async fn claim(&self, delivery: &Delivery, holder: &str, now: Timestamp) -> Result<bool, Error> {
        let sql = "UPDATE alert SET holder = $3, lease_ends = $5, attempts = attempts + 1 \
                   WHERE alert = $1 AND sink = $2 AND state = 'pending' AND next_try <= $4 AND lease_ends <= $4";
        let seconds = now.as_second();
        let values = values![&delivery.alert, &delivery.sink, holder, seconds, seconds + LEASE];
        let touched = self.pool.execute(sql, values).await.map_err(|error| self.wrong(&error))?;
        Ok(touched > 0)
    }

    /// It was sent.
    ///
    /// # Errors
    /// The database.
    pub async fn sent(&self, delivery: &Delivery) -> Result<(), Error> {
        self.end(delivery, "sent", None).await
    }

    /// It has nothing more to say: the condition is over, or somebody has acknowledged it.
    ///
    /// # Errors
    /// The database.
    pub async fn silence(&self, delivery: &Delivery) -> Result<(), Error> {
        self.end(delivery, "silenced", None).await
    }

    /// It could not be sent, and is not tried again.
    ///
    /// # Errors
    /// The database.
    pub async fn give_up(&self, delivery: &Delivery, error: &str) -> Result<(), Error> {
        self.end(delivery, "given_up", Some(error)).await
    }

    /// It could not be sent, and is tried again after a pause.
    ///
    /// # Errors
    /// The database.
    pub async fn postpone(
        &self,
        delivery: &Delivery,
        error: &str,
        pause: Duration,
        now: Timestamp,
    ) -> Result<(), Error> {
        let next = now.as_second().saturating_add(i64::try_from(pause.as_secs()).unwrap_or(i64::MAX));
        let sql = "UPDATE alert SET next_try = $3, error = $4, holder = '', lease_ends = 0 \
                   WHERE alert = $1 AND sink = $2 AND state = 'pending'";
        let done = self.pool.execute(sql, values![&delivery.alert, &delivery.sink, next, error]).await;
        done.map(drop).map_err(|error| self.wrong(&error))
    }

    async fn end(&self, delivery: &Delivery, state: &str, error: Option<&str>) -> Result<(), Error> {
        let sql = "UPDATE alert SET state = $3, error = $4, holder = '', lease_ends = 0 \
                   WHERE alert = $1 AND sink = $2 AND state = 'pending'";
        let done = self.pool.execute(sql, values![&delivery.alert, &delivery.sink, state, error]).await;
        done.map(drop).map_err(|error| self.wrong(&error))
    }

    /// Forgets alerts that were told long ago.
    ///
    /// # Errors
    /// The database.
    pub async fn forget_alerts(&self, now: Timestamp) -> Result<(), Error> {
        let sql = "DELETE FROM alert WHERE state <> 'pending' AND raised < $1";
        self.pool.execute(sql, values![days_before(now, DAYS)]).await.map(drop).map_err(|error| self.wrong(&error))
    }

    /// Notes that somebody knows about a pair's expiry, in the history too.
    ///
    /// # Errors
    /// The database; [`Error::Unknown`] where no such pair was ever seen.
    pub async fn acknowledge(&self, acknowledgement: &Acknowledgement, run: i64) -> Result<(), Error> {
        let Acknowledgement { key_pair, at, keyring, who, why, ends } = acknowledgement;
        let entry = Entry {
            instance: self.instance.to_string(),
            at: *at,
            kind: "keyring".to_owned(),
            name: keyring.clone(),
            key_pair: Some(key_pair.clone()),
            was: None,
            becomes: None,
            who: who.clone(),
            reason: "acknowledged".to_owned(),
            why: why.clone(),
        };
        let done = async {
            let mut open = self.pool.begin().await?;
            let sql = "INSERT INTO acknowledgement (key_pair, at, keyring, who, why, ends) \
                       VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (key_pair, at, who) DO NOTHING";
            open.execute(sql, values![key_pair, *at, keyring, who, why, ends.map(Seconds::time)]).await?;
            let sql = "INSERT INTO history (instance, run, number, at, kind, name, key_pair, was, becomes, who, reason, \
                       why) VALUES ($1, $2, 0, $3, $4, $5, $6, NULL, NULL, $7, $8, $9)";
            let values = values![
                &entry.instance,
                run,
                entry.at,
                &entry.kind,
                &entry.name,
                &entry.key_pair,
                &entry.who,
                &entry.reason,
                &entry.why,
            ];
            open.execute(sql, values).await?;
            open.commit().await
        };
        done.await.map_err(|error| self.wrong(&error))
    }

    /// Every acknowledgement.
    ///
    /// # Errors
    /// The database.
    pub async fn acknowledgements(&self) -> Result<Vec<Acknowledgement>, Error> {
        let sql = "SELECT * FROM acknowledgement ORDER BY at, key_pair, who";
        self.pool.rows(sql, vec![]).await.map_err(|error| self.wrong(&error))
    }

    /// What is meant: the pair of a keyring, a partner's certificate or the anchor of a trust that begins with these hex
    /// digits, or (empty) the current pair, as the instance that was heard of last says; and when that ends.
    ///
    /// # Errors
    /// The database; [`Error::Unknown`] for none, [`Error::Several`].
    pub async fn find(&self, keyring: &str, key_pair: &str) -> Result<(String, Seconds), Error> {
        let digits = key_pair.strip_prefix("sha256:").unwrap_or(key_pair).to_ascii_lowercase();
        // A partner's certificate belongs to the keyring that was shown to it; it is never the one that is meant by nothing.
        let sql = "SELECT placement.key_pair, COALESCE(chain_ends, not_after), \
                   CASE WHEN standing = 'current' THEN present ELSE 0 END, instance.last_seen FROM placement \
                   JOIN key_pair ON key_pair.key_pair = placement.key_pair \
                   JOIN instance ON instance.instance = placement.instance WHERE keyring = $1 \
                   UNION ALL SELECT certificate, not_after, 0, last_seen FROM peer WHERE keyring = $1 \
                   UNION ALL SELECT anchor, COALESCE(not_after, 0), 0, last_seen FROM anchor \
                   WHERE trust = $1 AND kind <> 'pin'";
        let mut rows: Vec<(String, Seconds, i64, i64)> =
            self.pool.rows(sql, values![keyring]).await.map_err(|error| self.wrong(&error))?;
        rows.retain(|(name, _, is_current, _)| {
            if digits.is_empty() {
                *is_current == 1
            } else {
                name.strip_prefix("sha256:").unwrap_or(name).starts_with(&digits)
            }
        });
        // Pods that are gone say for ever what was current with them; of one certificate's rows the newest counts.
        rows.sort_by_key(|(_, _, _, seen)| std::cmp::Reverse(*seen));
        let Some((name, ends, _, _)) = rows.first().cloned() else {
            return Err(Error::Unknown { keyring: keyring.to_owned(), key_pair: key_pair.to_owned() });
        };
        if !digits.is_empty() && rows.iter().any(|(other, _, _, _)| *other != name) {
            return Err(Error::Several { keyring: keyring.to_owned(), key_pair: key_pair.to_owned() });
        }
        Ok((name, ends))
    }
}
