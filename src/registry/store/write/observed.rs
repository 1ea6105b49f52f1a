//! Writes a snapshot's content where it differs from the one before.

use jiff::Timestamp;

use super::super::super::TextList;
use super::super::sql::{DatabaseTransaction, values};
use super::{BatchWriter, ObservedState};
use crate::snapshot::{KeyPairView, KeyringView, TrustView};

impl BatchWriter {
    /// Unchanged rows are skipped; rows that are gone are marked as not present.
    pub(super) async fn write_observed(
        &self,
        open: &mut DatabaseTransaction,
        now: &ObservedState,
        before: Option<&ObservedState>,
    ) -> Result<(), sqlx::Error> {
        if before.is_none() {
            for sql in [
                "UPDATE keyring SET present = 0 WHERE instance = $1",
                "UPDATE placement SET present = 0 WHERE instance = $1",
                "UPDATE waiting_key SET present = 0 WHERE instance = $1",
                "UPDATE trust SET present = 0 WHERE instance = $1",
                "UPDATE anchor SET present = 0 WHERE instance = $1",
                "UPDATE crl SET present = 0 WHERE instance = $1",
            ] {
                open.execute(sql, values![&*self.instance]).await?;
            }
        }
        let nothing = ObservedState::default();
        let before = before.unwrap_or(&nothing);
        let find = |name: &str| before.keyrings.iter().find(|view| &*view.name == name);
        for view in &now.keyrings {
            let known = find(&view.name);
            if known != Some(view) {
                self.write_keyring(open, view, known).await?;
            }
        }
        for gone in before.keyrings.iter().filter(|old| !now.keyrings.iter().any(|new| new.name == old.name)) {
            for sql in [
                "UPDATE keyring SET present = 0, last_seen = $3 WHERE instance = $1 AND keyring = $2",
                "UPDATE placement SET present = 0, last_seen = $3 WHERE instance = $1 AND keyring = $2 AND present = 1",
                "UPDATE waiting_key SET present = 0, last_seen = $3 WHERE instance = $1 AND keyring = $2",
            ] {
                open.execute(sql, values![&*self.instance, &*gone.name, self.now]).await?;
            }
        }
        for view in now.trusts.iter().filter(|view| !before.trusts.contains(view)) {
            self.write_trust(open, view).await?;
        }
        for gone in before.trusts.iter().filter(|old| !now.trusts.iter().any(|new| new.holds.name == old.holds.name)) {
            self.mark_trust_absent(open, &gone.holds.name).await?;
        }
        Ok(())
    }

    async fn write_keyring(
        &self,
        open: &mut DatabaseTransaction,
        view: &KeyringView,
        before: Option<&KeyringView>,
    ) -> Result<(), sqlx::Error> {
        let seconds = |duration: &std::time::Duration| i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
        let thresholds: Option<TextList> =
            view.alert_before.as_ref().map(|list| list.iter().map(|one| seconds(one).to_string()).collect());
        let sql = "INSERT INTO keyring (instance, keyring, purpose, owner, contact, rotate_every, alert_before, \
                   first_seen, last_seen, present) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $8, 1) \
                   ON CONFLICT (instance, keyring) DO UPDATE SET purpose = excluded.purpose, owner = excluded.owner, \
                   contact = excluded.contact, rotate_every = excluded.rotate_every, \
                   alert_before = excluded.alert_before, last_seen = excluded.last_seen, present = 1";
        let values = values![
            &*self.instance,
            &*view.name,
            &view.purpose,
            &view.owner,
            &view.contact,
            view.rotate_every.as_ref().map(seconds),
            thresholds.map(|texts| texts.0),
            self.now,
        ];
        open.execute(sql, values).await?;
        let known = before.map(|view| view.key_pairs.as_slice()).unwrap_or_default();
        for pair in view.key_pairs.iter().filter(|pair| !known.contains(pair)) {
            self.write_key_pair(open, &view.name, pair).await?;
        }
        let gone = |old: &&KeyPairView| !view.key_pairs.iter().any(|new| new.key_pair == old.key_pair);
        for pair in known.iter().filter(gone) {
            let sql = "UPDATE placement SET present = 0, last_seen = $4 \
                       WHERE instance = $1 AND keyring = $2 AND key_pair = $3";
            let values = values![&*self.instance, &*view.name, pair.key_pair.to_string(), self.now];
            open.execute(sql, values).await?;
        }
        if before.is_none_or(|before| before.waiting != view.waiting) {
            let sql = "UPDATE waiting_key SET present = 0 WHERE instance = $1 AND keyring = $2";
            open.execute(sql, values![&*self.instance, &*view.name]).await?;
            for waiting in &view.waiting {
                let sql = "INSERT INTO waiting_key (instance, keyring, file, spki, first_seen, last_seen, present) \
                           VALUES ($1, $2, $3, $4, $5, $5, 1) ON CONFLICT (instance, keyring, file, spki) \
                           DO UPDATE SET last_seen = excluded.last_seen, present = 1";
                let spki = waiting.spki_hash.to_string();
                let values = values![&*self.instance, &*view.name, &*waiting.file, spki, self.now];
                open.execute(sql, values).await?;
            }
        }
        Ok(())
    }

    async fn write_key_pair(
        &self,
        open: &mut DatabaseTransaction,
        keyring: &str,
        pair: &KeyPairView,
    ) -> Result<(), sqlx::Error> {
        let key_pair = pair.key_pair.to_string();
        let names: TextList = pair.names.iter().collect();
        let sql = "INSERT INTO key_pair (key_pair, subject, names, issuer, serial, key_kind, spki, not_before, not_after, \
                   weakness, self_issued) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) \
                   ON CONFLICT (key_pair) DO NOTHING";
        let values = values![
            &key_pair,
            &pair.subject,
            &names,
            &pair.issuer,
            &pair.serial,
            pair.key_kind.to_string(),
            pair.spki.to_string(),
            pair.validity.not_before,
            pair.validity.not_after,
            &pair.weakness,
            pair.self_issued,
        ];
        open.execute(sql, values).await?;
        let sources: TextList = pair.sources.iter().collect();
        // An unchanged standing keeps its age: a start without state would reset it.
        let sql = "INSERT INTO placement (instance, keyring, key_pair, standing, since, overlap_ends, sources, why, \
                   first_seen, last_seen, last_used, present, chain_ends, chain_issuer) \
                   VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $9, NULL, 1, $10, $11) \
                   ON CONFLICT (instance, keyring, key_pair) DO UPDATE SET standing = excluded.standing, \
                   since = CASE WHEN placement.standing = excluded.standing AND placement.since < excluded.since \
                   THEN placement.since ELSE excluded.since END, \
                   overlap_ends = excluded.overlap_ends, sources = excluded.sources, why = excluded.why, \
                   last_seen = excluded.last_seen, present = 1, chain_ends = excluded.chain_ends, \
                   chain_issuer = excluded.chain_issuer";
        let chain = pair.chain_ends.as_ref();
        let values = values![
            &*self.instance,
            keyring,
            &key_pair,
            pair.standing.as_str(),
            pair.since,
            pair.overlap_ends,
            &sources,
            &pair.why,
            self.now,
            chain.map(|chain| chain.not_after),
            chain.map(|chain| &*chain.subject),
        ];
        open.execute(sql, values).await.map(drop)
    }

    async fn write_trust(&self, open: &mut DatabaseTransaction, view: &TrustView) -> Result<(), sqlx::Error> {
        let name = &*view.holds.name;
        let keyrings: TextList = view.keyrings.iter().collect();
        let sql = "INSERT INTO trust (instance, trust, keyrings, checks_crls, first_seen, last_seen, present) \
                   VALUES ($1, $2, $3, $4, $5, $5, 1) ON CONFLICT (instance, trust) DO UPDATE SET \
                   keyrings = excluded.keyrings, checks_crls = excluded.checks_crls, last_seen = excluded.last_seen, \
                   present = 1";
        open.execute(sql, values![&*self.instance, name, &keyrings, view.holds.checks_crls, self.now]).await?;
        for sql in [
            "UPDATE anchor SET present = 0 WHERE instance = $1 AND trust = $2",
            "UPDATE crl SET present = 0 WHERE instance = $1 AND trust = $2",
        ] {
            open.execute(sql, values![&*self.instance, name]).await?;
        }
        let sql = "INSERT INTO anchor (instance, trust, kind, anchor, subject, not_after, accepted_until, first_seen, \
                   last_seen, last_matched, present, not_before) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $8, NULL, 1, $9) \
                   ON CONFLICT (instance, trust, kind, anchor) DO UPDATE SET accepted_until = excluded.accepted_until, \
                   last_seen = excluded.last_seen, present = 1, not_before = excluded.not_before";
        for anchor in &view.holds.anchors {
            let (id, until) = (anchor.anchor.to_string(), anchor.until);
            let (begin, end) = (Some(anchor.validity.not_before), Some(anchor.validity.not_after));
            let kind = if anchor.platform { "platform" } else { "anchor" };
            let subject = Some(&*anchor.subject);
            let values = values![&*self.instance, name, kind, id, subject, end, until, self.now, begin];
            open.execute(sql, values).await?;
        }
        for pin in &view.holds.pins {
            let (none, end): (Option<&str>, Option<Timestamp>) = (None, None);
            let values =
                values![&*self.instance, name, "pin", pin.spki.to_string(), none, end, pin.until, self.now, end];
            open.execute(sql, values).await?;
        }
        // The newest come first: reversed, the newest CRL of an issuer is written last.
        for crl in view.holds.crls.iter().rev() {
            let anchors: TextList = crl.anchors.iter().map(ToString::to_string).collect();
            let sql = "INSERT INTO crl (instance, trust, issuer, anchors, this_update, next_update, first_seen, last_seen, \
                       present, revoked) VALUES ($1, $2, $3, $4, $5, $6, $7, $7, 1, $8) \
                       ON CONFLICT (instance, trust, issuer) DO UPDATE SET anchors = excluded.anchors, \
                       this_update = excluded.this_update, next_update = excluded.next_update, \
                       last_seen = excluded.last_seen, present = 1, revoked = excluded.revoked";
            let (made, due, revoked) = (crl.this_update, crl.next_update, i64::try_from(crl.revoked).ok());
            let values = values![&*self.instance, name, &crl.issuer, &anchors, made, due, self.now, revoked];
            open.execute(sql, values).await?;
        }
        Ok(())
    }

    async fn mark_trust_absent(&self, open: &mut DatabaseTransaction, name: &str) -> Result<(), sqlx::Error> {
        for sql in [
            "UPDATE trust SET present = 0, last_seen = $3 WHERE instance = $1 AND trust = $2",
            "UPDATE anchor SET present = 0, last_seen = $3 WHERE instance = $1 AND trust = $2",
            "UPDATE crl SET present = 0, last_seen = $3 WHERE instance = $1 AND trust = $2",
        ] {
            open.execute(sql, values![&*self.instance, name, self.now]).await?;
        }
        Ok(())
    }
}
