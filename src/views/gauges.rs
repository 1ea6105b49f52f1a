//! The snapshot as gauges, read when it is scraped: nothing is stored twice.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use crate::keyring::Standing;
use crate::snapshot::{KeyPairView, KeyringView, Snapshot};

/// The gauges of one scrape.
pub(crate) struct SnapshotGauges {
    pub(crate) snapshot: Arc<Snapshot>,
    pub(crate) now: Timestamp,
    pub(crate) lines_dropped: u64,
    /// Files that are refused now, by keyring: how many, and since when the first is.
    pub(crate) refused_files: BTreeMap<Arc<str>, (usize, Timestamp)>,
}

impl fmt::Debug for SnapshotGauges {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Gauges({:?})", self.snapshot.epoch)
    }
}

impl Collector for SnapshotGauges {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let epoch = i64::try_from(self.snapshot.epoch.0).unwrap_or(i64::MAX);
        let metric = encoder.encode_descriptor("epoch", "Number of the snapshot in use", None, MetricType::Gauge)?;
        ConstGauge::new(epoch).encode(metric)?;
        let help = "Log lines dropped because the log's reader was too slow";
        let metric = encoder.encode_descriptor("log_lines_dropped", help, None, MetricType::Counter)?;
        ConstCounter::new(self.lines_dropped).encode(metric)?;
        self.waiting(&mut encoder)?;
        if self.snapshot.keyrings.is_empty() && self.refused_files.is_empty() {
            return Ok(());
        }
        self.pairs(&mut encoder)?;
        self.anchors(&mut encoder)?;
        self.trust_files(&mut encoder)?;
        self.overlaps(&mut encoder)?;
        self.keyrings(&mut encoder)
    }
}

impl SnapshotGauges {
    fn waiting(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let help = "Listeners that wait for a key pair or trust before they serve";
        let metric = encoder.encode_descriptor("listeners_waiting", help, None, MetricType::Gauge)?;
        ConstGauge::new(i64::try_from(self.snapshot.waiting.len()).unwrap_or(i64::MAX)).encode(metric)
    }

    fn pairs(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let help = "When a key pair expires: its certificate, or an intermediate of its chain that expires earlier";
        let mut metric =
            encoder.encode_descriptor("certificate_not_after_timestamp_seconds", help, None, MetricType::Gauge)?;
        for (keyring, pair) in self.key_pairs() {
            let (standing, key_pair) = (pair.standing.as_str(), pair.key_pair.short());
            let labels = [("keyring", &*keyring.name), ("standing", standing), ("key_pair", &key_pair)];
            metric.encode_family(&labels)?.encode_gauge(&pair.ends().as_second())?;
        }
        Ok(())
    }

    fn anchors(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let help = "When a trust anchor from a file expires";
        let mut metric =
            encoder.encode_descriptor("trust_anchor_not_after_timestamp_seconds", help, None, MetricType::Gauge)?;
        for trust in &self.snapshot.trusts {
            for anchor in trust.holds.anchors.iter().filter(|anchor| !anchor.platform) {
                let id = anchor.anchor.short();
                let labels = [("trust", &*trust.holds.name), ("anchor", &id)];
                metric.encode_family(&labels)?.encode_gauge(&anchor.validity.not_after.as_second())?;
            }
        }
        Ok(())
    }

    fn trust_files(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let help = "Files of a trust that cannot be used now: missing, empty or malformed";
        let mut metric = encoder.encode_descriptor("trust_files_unusable", help, None, MetricType::Gauge)?;
        for trust in &self.snapshot.trusts {
            let count = i64::try_from(trust.holds.faults.len()).unwrap_or(i64::MAX);
            metric.encode_family(&[("trust", &*trust.holds.name)])?.encode_gauge(&count)?;
        }
        let help = "When the first of a trust's CRLs is due for renewal; absent without one";
        let mut metric =
            encoder.encode_descriptor("crl_next_update_timestamp_seconds", help, None, MetricType::Gauge)?;
        for trust in &self.snapshot.trusts {
            // The newest of an issuer comes first.
            let mut seen = BTreeSet::new();
            let newest = trust.holds.crls.iter().filter(|crl| seen.insert(&crl.issuer));
            if let Some(due) = newest.map(|crl| crl.next_update).min() {
                metric.encode_family(&[("trust", &*trust.holds.name)])?.encode_gauge(&due.as_second())?;
            }
        }
        Ok(())
    }

    fn overlaps(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let help = "When the last overlap of a keyring ends; absent without an overlap";
        let mut metric = encoder.encode_descriptor("overlap_ends_timestamp_seconds", help, None, MetricType::Gauge)?;
        for keyring in &self.snapshot.keyrings {
            let ends = keyring.key_pairs.iter().filter(|pair| pair.standing == Standing::Previous);
            if let Some(ends) = ends.filter_map(|pair| pair.overlap_ends).max() {
                metric.encode_family(&[("keyring", &*keyring.name)])?.encode_gauge(&ends.as_second())?;
            }
        }
        let help = "Whether the overlap of a keyring would survive a restart; absent without an overlap";
        let mut metric = encoder.encode_descriptor("overlap_survives_restart", help, None, MetricType::Gauge)?;
        for keyring in &self.snapshot.keyrings {
            let mut previous = keyring.key_pairs.iter().filter(|pair| pair.standing == Standing::Previous).peekable();
            if previous.peek().is_some() {
                let survives = previous.all(|pair| pair.survives_restart);
                metric.encode_family(&[("keyring", &*keyring.name)])?.encode_gauge(&i64::from(survives))?;
            }
        }
        Ok(())
    }

    fn keyrings(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        // Files of no keyring, and of one that the snapshot does not have because nothing of it can be read.
        let mut names: BTreeSet<&Arc<str>> = self.refused_files.keys().collect();
        names.extend(self.snapshot.keyrings.iter().map(|keyring| &keyring.name));
        let view = |name: &Arc<str>| self.snapshot.keyrings.iter().find(|keyring| keyring.name == *name);
        let help = "Key pairs and files in the folder that are refused now";
        let mut metric = encoder.encode_descriptor("folder_refused", help, None, MetricType::Gauge)?;
        for name in &names {
            let pairs = view(name).map_or(0, |keyring| keyring.pairs_with_standing(Standing::Refused).count());
            let refused = pairs + self.refused_files.get(*name).map_or(0, |(count, _)| *count);
            let refused = i64::try_from(refused).unwrap_or(i64::MAX);
            metric.encode_family(&[("keyring", &***name)])?.encode_gauge(&refused)?;
        }
        let help = "How long the folder has held something newer that is not current; 0 if it holds nothing newer";
        let mut metric = encoder.encode_descriptor("keyring_divergence_seconds", help, None, MetricType::Gauge)?;
        for name in &names {
            let pair = view(name).and_then(|keyring| keyring.diverges).map(|(_, since)| since);
            let file = self.refused_files.get(*name).map(|(_, since)| *since);
            let since = pair.into_iter().chain(file).min().unwrap_or(self.now);
            let seconds = (self.now.as_second() - since.as_second()).max(0);
            metric.encode_family(&[("keyring", &***name)])?.encode_gauge(&seconds)?;
        }
        Ok(())
    }

    fn key_pairs(&self) -> impl Iterator<Item = (&KeyringView, &KeyPairView)> {
        self.snapshot.keyrings.iter().flat_map(|keyring| keyring.key_pairs.iter().map(move |pair| (keyring, pair)))
    }
}
