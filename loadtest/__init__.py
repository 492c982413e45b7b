"""Load: what one request costs (`bench`), and how the whole behaves under users (`locustfile`)."""
