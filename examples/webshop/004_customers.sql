-- Customers become rows of their own. The old column stays for as long as releases that write it may still run.
-- blocking: accepted
CREATE TABLE customers (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL UNIQUE
);

INSERT INTO customers (name) SELECT DISTINCT customer FROM orders;

ALTER TABLE orders ADD COLUMN customer_id bigint REFERENCES customers;

UPDATE orders SET customer_id = customers.id FROM customers WHERE customers.name = orders.customer;
