-- The named queries of spool/sqlite_tables.py.

-- An opening's number is larger than any before, whoever opens.
-- name: new_epoch
INSERT INTO relays (name, epoch) SELECT :owner, ifnull(max(epoch), 0) + 1 FROM relays WHERE true
ON CONFLICT (name) DO UPDATE SET epoch = excluded.epoch
RETURNING epoch;

-- name: accept_message
INSERT INTO messages (sender, envid, ret, requiretls, smtputf8, submitter, accepted_at, size_bytes)
VALUES (:sender, :envid, :ret, :requiretls, :smtputf8, :submitter, :now, :size_bytes);

-- Its content has come in before.
-- name: accept_coming_in
UPDATE messages
SET sender = :sender, envid = :envid, ret = :ret, requiretls = :requiretls, smtputf8 = :smtputf8,
    submitter = :submitter, accepted_at = :now, size_bytes = :size_bytes
WHERE id = :message_id;

-- name: begin_content
INSERT INTO messages DEFAULT VALUES;

-- name: add_part
INSERT INTO parts (id, octets) VALUES ((:message_id << 20) + :number, :octets);

-- name: part
SELECT octets FROM parts WHERE id = (:message_id << 20) + :number;

-- name: coming_in
SELECT id FROM messages WHERE accepted_at IS NULL;

-- name: accept_delivery
INSERT INTO deliveries (message_id, recipient, domain, notify, orcpt, due_at, lane)
VALUES (:message_id, :recipient, :domain, :notify, :orcpt, :now, :lane);

-- name: accept_claimed_delivery
INSERT INTO deliveries (message_id, recipient, domain, notify, orcpt, due_at, lane, state, attempt, owner, epoch)
VALUES (:message_id, :recipient, :domain, :notify, :orcpt, :due_at, :lane, 'claimed', 1, :owner, :epoch);

-- name: known_key
SELECT message_id, fingerprint FROM keys
WHERE submitter = :submitter AND key = :key AND (expires_at IS NULL OR expires_at > :now);

-- name: remember_key
INSERT OR REPLACE INTO keys (submitter, key, message_id, fingerprint)
VALUES (:submitter, :key, :message_id, :fingerprint);

-- One seek in deliveries_waiting for each lane, however much waits in it.
-- name: lanes
WITH RECURSIVE lanes (lane) AS (
    SELECT min(lane) FROM deliveries WHERE state = 'waiting'
    UNION ALL
    SELECT (SELECT min(lane) FROM deliveries WHERE state = 'waiting' AND lane > lanes.lane)
    FROM lanes WHERE lanes.lane IS NOT NULL
)
SELECT lane FROM lanes WHERE lane IS NOT NULL;

-- name: due_in_lane
SELECT due_at, message_id, size_bytes
FROM deliveries JOIN messages ON messages.id = message_id
WHERE state = 'waiting' AND lane = :lane AND due_at <= :now
ORDER BY due_at LIMIT :limit;

-- name: next_due_in_lane
SELECT min(due_at) FROM deliveries WHERE state = 'waiting' AND lane = :lane;

-- name: claim
UPDATE deliveries
SET state = 'claimed', owner = :owner, epoch = :epoch, attempt = attempt + 1,
    due_at = :now + min(:first_s << min(interruptions, 20), :most_s)
WHERE message_id = :message_id AND state = 'waiting' AND due_at <= :now
  AND lane NOT IN (SELECT value FROM json_each(:busy))
RETURNING id, recipient, notify, orcpt, attempt, warned, target, iif(wish = 'bounce', wish_words, '');

-- name: claimed_message
SELECT sender, envid, ret, requiretls, smtputf8, submitter, accepted_at, size_bytes,
       (SELECT octets FROM parts WHERE parts.id = messages.id << 20 AND size_bytes <= :part_octets)
FROM messages WHERE id = :message_id;

-- What an operator wished meanwhile is done now; here, and where a claim is given back or released.
-- name: defer
UPDATE deliveries
SET state = CASE wish WHEN 'hold' THEN 'held' WHEN 'cancel' THEN 'cancelled' ELSE 'waiting' END,
    due_at = CASE wish WHEN 'bounce' THEN :now WHEN 'cancel' THEN NULL ELSE :due_at END, wish = iif(wish = 'bounce', wish, NULL),
    owner = NULL, epoch = NULL, lane = :lane, interruptions = 0, warned = warned OR :warned,
    ended_at = :now, host = :host, port = :port, tls = :tls, why = :why, uncertain = :uncertain
WHERE id = :delivery_id AND state = 'claimed' AND epoch = :epoch AND owner = :owner;

-- name: finish
UPDATE deliveries
SET state = :state, due_at = NULL, owner = NULL, epoch = NULL, wish = NULL,
    ended_at = :now, host = :host, port = :port, tls = :tls, why = :why, uncertain = :uncertain
WHERE id = :delivery_id AND state = 'claimed' AND epoch = :epoch AND owner = :owner;

-- name: give_back
UPDATE deliveries
SET state = CASE wish WHEN 'hold' THEN 'held' WHEN 'cancel' THEN 'cancelled' ELSE 'waiting' END,
    ended_at = iif(wish = 'cancel', :now, ended_at), wish = iif(wish = 'bounce', wish, NULL),
    due_at = iif(wish = 'cancel', NULL, :due_at), owner = NULL, epoch = NULL, lane = :lane, attempt = attempt - 1
WHERE id = :delivery_id AND state = 'claimed' AND epoch = :epoch AND owner = :owner;

-- name: release
UPDATE deliveries
SET state = CASE wish WHEN 'hold' THEN 'held' WHEN 'cancel' THEN 'cancelled' ELSE 'waiting' END,
    ended_at = iif(wish = 'cancel', :now, ended_at), wish = iif(wish = 'bounce', wish, NULL),
    due_at = iif(wish = 'cancel', NULL, :now + min(:first_s << min(interruptions, 20), :most_s)),
    owner = NULL, epoch = NULL, attempt = attempt - 1, interruptions = interruptions + 1
WHERE state = 'claimed';

-- name: remove_message
DELETE FROM messages WHERE id = :message_id;

-- name: last_in_history
SELECT max(id) FROM history;

-- The oldest stand first: each of these ends at the first row that it keeps.
-- name: forget_beyond
DELETE FROM history WHERE id <= (SELECT max(id) FROM history) - :most;

-- name: forget_older
DELETE FROM history
WHERE id < ifnull((SELECT id FROM history WHERE at >= :oldest ORDER BY id LIMIT 1), (SELECT max(id) + 1 FROM history));

-- name: forget_keys
DELETE FROM keys WHERE expires_at <= :now;

-- name: load_policy
SELECT domain, policy_id, fetched_at, used_at, refresh_at, policy FROM policies WHERE domain = :domain;

-- name: save_policy
INSERT OR REPLACE INTO policies (domain, policy_id, fetched_at, used_at, refresh_at, policy)
VALUES (:domain, :policy_id, :fetched_at, :used_at, :refresh_at, :policy);

-- name: forget_policy
DELETE FROM policies WHERE domain = :domain;

-- name: policies_due
SELECT domain FROM policies WHERE refresh_at <= :now ORDER BY refresh_at;
