"""What one proxied request costs, in Stagegate and in the proxies that people would use instead."""
