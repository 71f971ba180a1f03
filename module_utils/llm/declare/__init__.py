"""What an inventory may say: tables of keys, checks of values, typed objects, findings."""
