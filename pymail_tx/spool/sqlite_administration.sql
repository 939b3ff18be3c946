-- The named queries of spool/sqlite_administration.py.

-- name: entries
SELECT message_id, deliveries.id AS delivery_id, sender, recipient, state, accepted_at, due_at, attempt, lane, why,
       target, wish, ifnull(owner, '') AS owner, size_bytes
FROM deliveries JOIN messages ON messages.id = message_id
WHERE deliveries.id > :after AND deliveries.id <= :until AND accepted_at IS NOT NULL
  AND (:message_ids IS NULL OR message_id IN (SELECT value FROM json_each(:message_ids)))
  AND (:domain IS NULL OR domain = :domain)
  AND (:state IS NULL OR state = :state)
  AND (:accepted_before IS NULL OR accepted_at < :accepted_before)
  AND (:lane IS NULL OR lane = :lane)
ORDER BY deliveries.id LIMIT :limit;

-- name: message
SELECT sender, envid, ret, requiretls, smtputf8, submitter FROM messages
WHERE id = :message_id AND accepted_at IS NOT NULL;

-- name: recipients
SELECT recipient AS address, notify, orcpt FROM deliveries WHERE message_id = :message_id ORDER BY id;

-- name: events
SELECT at, recipient, what, attempt, host, port, tls, words, uncertain FROM events
WHERE message_id = :message_id ORDER BY id;

-- name: history
SELECT at, recipient, what, attempt, host, port, tls, words, uncertain FROM history
WHERE message_id = :message_id ORDER BY id;

-- The last thing said is that of the attempt that ended last: the greatest of times with words behind them.
-- name: destinations
SELECT lower(domain) AS domain, total(state <> 'held') AS waiting, total(state = 'held') AS held,
       min(accepted_at) AS oldest_at, min(iif(state = 'waiting', due_at, NULL)) AS next_due_at,
       substr(max(printf('%020.6f', ifnull(ended_at, 0)) || why), 21) AS why
FROM deliveries JOIN messages ON messages.id = message_id
WHERE due_at IS NOT NULL
GROUP BY deliveries.domain
ORDER BY count(*) DESC, deliveries.domain LIMIT :limit;

-- name: last_delivery
SELECT ifnull(max(id), 0) AS id FROM deliveries;

-- The actions, on what waits or is held. What is noted of them, and what becomes of one that is cancelled, see below and
-- delivery_ended in sqlite_2.sql.

-- name: retry
UPDATE deliveries SET due_at = :now, interruptions = 0
WHERE id IN (SELECT value FROM json_each(:ids)) AND state = 'waiting'
RETURNING id;

-- name: hold
UPDATE deliveries SET state = 'held'
WHERE id IN (SELECT value FROM json_each(:ids)) AND state = 'waiting'
RETURNING id;

-- name: release
UPDATE deliveries SET state = 'waiting', due_at = :now
WHERE id IN (SELECT value FROM json_each(:ids)) AND state = 'held'
RETURNING id;

-- name: cancel
UPDATE deliveries
SET state = 'cancelled', due_at = NULL, ended_at = :now, why = :words, host = NULL, port = NULL, tls = '', uncertain = 0
WHERE id IN (SELECT value FROM json_each(:ids)) AND (state = 'waiting' OR state = 'held')
RETURNING id;

-- name: bounce
UPDATE deliveries SET state = 'waiting', due_at = :now, lane = '', wish = 'bounce', wish_words = :words
WHERE id IN (SELECT value FROM json_each(:ids)) AND (state = 'waiting' OR state = 'held')
RETURNING id;

-- Which lane fits, the scheduler knows.
-- name: route
UPDATE deliveries SET target = :words, lane = '', due_at = iif(state = 'waiting', :now, due_at)
WHERE id IN (SELECT value FROM json_each(:ids)) AND (state = 'waiting' OR state = 'held')
RETURNING id;

-- The same, on what is under way. There is nothing to retry.

-- name: hold_under_way
UPDATE deliveries SET wish = 'hold'
WHERE id IN (SELECT value FROM json_each(:ids)) AND state = 'claimed'
RETURNING id;

-- name: release_under_way
UPDATE deliveries SET wish = NULL
WHERE id IN (SELECT value FROM json_each(:ids)) AND state = 'claimed' AND wish = 'hold'
RETURNING id;

-- name: cancel_under_way
UPDATE deliveries SET wish = 'cancel'
WHERE id IN (SELECT value FROM json_each(:ids)) AND state = 'claimed'
RETURNING id;

-- name: bounce_under_way
UPDATE deliveries SET wish = 'bounce', wish_words = :words
WHERE id IN (SELECT value FROM json_each(:ids)) AND state = 'claimed'
RETURNING id;

-- name: route_under_way
UPDATE deliveries SET target = :words
WHERE id IN (SELECT value FROM json_each(:ids)) AND state = 'claimed'
RETURNING id;

-- Of what is gone meanwhile nothing is noted here.
-- name: note
INSERT INTO events (message_id, delivery_id, recipient, at, what, attempt, words)
SELECT message_id, id, recipient, :now, :what, attempt, :words
FROM deliveries WHERE id IN (SELECT value FROM json_each(:ids)) AND state <> 'cancelled';
