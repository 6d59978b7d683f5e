-- What is ordered leaves the stock; the check on products.stock refuses what is not there.
CREATE FUNCTION take_from_stock() RETURNS trigger
LANGUAGE plpgsql
AS $$
BEGIN
    UPDATE products SET stock = stock - NEW.quantity WHERE id = NEW.product_id;
    RETURN NEW;
END;
$$;

CREATE TRIGGER take_from_stock
AFTER INSERT ON order_lines
FOR EACH ROW EXECUTE FUNCTION take_from_stock();
