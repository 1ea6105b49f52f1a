-- Why a peer was shown the pair that it was shown last: after a restart the rotation report says it again.

ALTER TABLE peer ADD COLUMN chosen_by TEXT;
