//! The deliveries of alerts to sinks, and the instances' claims on pending ones.
//!
//! A claim is a lease on a row: the instance that acquires it, or takes it over after its expiry, sends. So an alert
//! arrives at least once and, unless an instance dies between sending and recording it, exactly once in the fleet.

use std::time::Duration;

use jiff::Timestamp;

use super::super::{AcknowledgementRow, DeliveryRow, Error, HistoryRow, UnixSeconds};
use super::sql::values;
use super::{RegistryStore, days_before};

/// How long a claim lasts, in seconds.
const LEASE_SECONDS: i64 = 120;
/// Retention of finished deliveries after the alert was raised: longer than any certificate raises alerts.
const RETENTION_DAYS: i64 = 3 * 365;

/// An alert to be delivered to one sink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AlertNotice {
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
    /// Whether the last threshold has passed.
    pub urgent: bool,
    /// For mail: the recipient.
    pub recipient: Option<String>,
    /// One sentence.
    pub summary: String,
    /// What to do.
    pub remedy: String,
    /// The owner of the keyring that it concerns.
    pub owner: Option<String>,
    /// The contacts of the keyrings that it concerns.
    pub contact: Option<String>,
    /// The date that it is about.
    pub ends: Option<Timestamp>,
}

impl RegistryStore {
    /// Records an alert for a sink, if no instance has; one that was silenced because it was over is pending again.
    ///
    /// # Errors
    /// The database.
    pub async fn raise(&self, notice: &AlertNotice, now: Timestamp) -> Result<bool, Error> {
        let sql = "INSERT INTO alert (alert, sink, kind, keyring, key_pair, urgent, recipient, summary, remedy, \
                   raised_by, raised, state, holder, lease_ends, attempts, next_try, error, owner, contact, ends) \
                   VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, 'pending', '', 0, 0, $11, NULL, $12, $13, $14) \
                   ON CONFLICT (alert, sink) DO UPDATE SET urgent = excluded.urgent, summary = excluded.summary, \
                   remedy = excluded.remedy, owner = excluded.owner, contact = excluded.contact, ends = excluded.ends, \
                   raised_by = excluded.raised_by, raised = excluded.raised, state = 'pending', \
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
            &notice.owner,
            &notice.contact,
            notice.ends.map(Timestamp::as_second),
        ];
        let touched = self.pool.execute(sql, values).await.map_err(|error| self.wrap_error(&error))?;
        Ok(touched > 0)
    }

    /// The pending deliveries, at most a thousand at once: those waiting longest first, so that a failing sink does not
    /// block others.
    ///
    /// # Errors
    /// The database.
    pub async fn pending(&self) -> Result<Vec<DeliveryRow>, Error> {
        let sql = "SELECT * FROM alert WHERE state = 'pending' ORDER BY next_try, raised, alert, sink LIMIT 1000";
        self.pool.fetch_rows(sql, vec![]).await.map_err(|error| self.wrap_error(&error))
    }

    /// All deliveries.
    ///
    /// # Errors
    /// The database.
    pub async fn deliveries(&self) -> Result<Vec<DeliveryRow>, Error> {
        let sql = "SELECT * FROM alert ORDER BY raised, alert, sink";
        self.pool.fetch_rows(sql, vec![]).await.map_err(|error| self.wrap_error(&error))
    }

    /// Claims a delivery that is due and unclaimed: true = this instance sends it.
    ///
    /// # Errors
    /// The database.
    pub async fn claim(&self, delivery: &DeliveryRow, holder: &str, now: Timestamp) -> Result<bool, Error> {
        let sql = "UPDATE alert SET holder = $3, lease_ends = $5, attempts = attempts + 1 \
                   WHERE alert = $1 AND sink = $2 AND state = 'pending' AND next_try <= $4 AND lease_ends <= $4";
        let seconds = now.as_second();
        let values = values![&delivery.alert, &delivery.sink, holder, seconds, seconds + LEASE_SECONDS];
        let touched = self.pool.execute(sql, values).await.map_err(|error| self.wrap_error(&error))?;
        Ok(touched > 0)
    }

    /// Marks it as sent.
    ///
    /// # Errors
    /// The database.
    pub async fn mark_sent(&self, delivery: &DeliveryRow) -> Result<(), Error> {
        self.finish_delivery(delivery, "sent", None).await
    }

    /// Silences it: the condition is over, or an operator has acknowledged it.
    ///
    /// # Errors
    /// The database.
    pub async fn silence(&self, delivery: &DeliveryRow) -> Result<(), Error> {
        self.finish_delivery(delivery, "silenced", None).await
    }

    /// Marks it as failed for good; it is not retried.
    ///
    /// # Errors
    /// The database.
    pub async fn give_up(&self, delivery: &DeliveryRow, error: &str) -> Result<(), Error> {
        self.finish_delivery(delivery, "given_up", Some(error)).await
    }

    /// Records a failed attempt; it is retried after a delay.
    ///
    /// # Errors
    /// The database.
    pub async fn postpone(
        &self,
        delivery: &DeliveryRow,
        error: &str,
        pause: Duration,
        now: Timestamp,
    ) -> Result<(), Error> {
        let next = now.as_second().saturating_add(i64::try_from(pause.as_secs()).unwrap_or(i64::MAX));
        let sql = "UPDATE alert SET next_try = $3, error = $4, holder = '', lease_ends = 0 \
                   WHERE alert = $1 AND sink = $2 AND state = 'pending'";
        let done = self.pool.execute(sql, values![&delivery.alert, &delivery.sink, next, error]).await;
        done.map(drop).map_err(|error| self.wrap_error(&error))
    }

    async fn finish_delivery(&self, delivery: &DeliveryRow, state: &str, error: Option<&str>) -> Result<(), Error> {
        let sql = "UPDATE alert SET state = $3, error = $4, holder = '', lease_ends = 0 \
                   WHERE alert = $1 AND sink = $2 AND state = 'pending'";
        let done = self.pool.execute(sql, values![&delivery.alert, &delivery.sink, state, error]).await;
        done.map(drop).map_err(|error| self.wrap_error(&error))
    }

    /// Deletes deliveries that were finished long ago.
    ///
    /// # Errors
    /// The database.
    pub async fn forget_alerts(&self, now: Timestamp) -> Result<(), Error> {
        let sql = "DELETE FROM alert WHERE state <> 'pending' AND raised < $1";
        self.pool
            .execute(sql, values![days_before(now, RETENTION_DAYS)])
            .await
            .map(drop)
            .map_err(|error| self.wrap_error(&error))
    }

    /// Records an operator's acknowledgement of a pair's expiry, in the history too.
    ///
    /// # Errors
    /// The database; [`Error::Unknown`] if the pair was never seen.
    pub async fn acknowledge(&self, acknowledgement: &AcknowledgementRow, run: i64) -> Result<(), Error> {
        let AcknowledgementRow { key_pair, at, keyring, who, why, ends } = acknowledgement;
        let entry = HistoryRow {
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
            let mut open = self.pool.begin_transaction().await?;
            let sql = "INSERT INTO acknowledgement (key_pair, at, keyring, who, why, ends) \
                       VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (key_pair, at, who) DO NOTHING";
            open.execute(sql, values![key_pair, *at, keyring, who, why, ends.map(UnixSeconds::time)]).await?;
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
        done.await.map_err(|error| self.wrap_error(&error))
    }

    /// Every acknowledgement.
    ///
    /// # Errors
    /// The database.
    pub async fn acknowledgements(&self) -> Result<Vec<AcknowledgementRow>, Error> {
        let sql = "SELECT * FROM acknowledgement ORDER BY at, key_pair, who";
        self.pool.fetch_rows(sql, vec![]).await.map_err(|error| self.wrap_error(&error))
    }

    /// Finds the pair of a keyring, a partner's certificate or the anchor of a trust that begins with these digits, or
    /// (empty) the current pair according to the instance that wrote last; and when that ends.
    ///
    /// # Errors
    /// The database; [`Error::Unknown`] for none, [`Error::Several`].
    pub async fn find(&self, keyring: &str, key_pair: &str) -> Result<(String, UnixSeconds), Error> {
        let digits = key_pair.strip_prefix("sha256:").unwrap_or(key_pair).to_ascii_lowercase();
        // A partner's certificate belongs to the keyring that was shown to it; empty digits never select it.
        let sql = "SELECT placement.key_pair, COALESCE(chain_ends, not_after), \
                   CASE WHEN standing = 'current' THEN present ELSE 0 END, instance.last_seen FROM placement \
                   JOIN key_pair ON key_pair.key_pair = placement.key_pair \
                   JOIN instance ON instance.instance = placement.instance WHERE keyring = $1 \
                   UNION ALL SELECT certificate, not_after, 0, last_seen FROM peer WHERE keyring = $1 \
                   UNION ALL SELECT anchor, COALESCE(not_after, 0), 0, last_seen FROM anchor \
                   WHERE trust = $1 AND kind <> 'pin'";
        let mut rows: Vec<(String, UnixSeconds, i64, i64)> =
            self.pool.fetch_rows(sql, values![keyring]).await.map_err(|error| self.wrap_error(&error))?;
        rows.retain(|(name, _, is_current, _)| {
            if digits.is_empty() {
                *is_current == 1
            } else {
                name.strip_prefix("sha256:").unwrap_or(name).starts_with(&digits)
            }
        });
        // Rows of pods that are gone keep their last current pair; of one certificate's rows the newest counts.
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
