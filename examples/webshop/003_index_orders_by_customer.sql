-- no-transaction
-- An index that is built while orders keep coming in.
CREATE INDEX CONCURRENTLY orders_by_customer ON orders (customer, ordered_at DESC);
