"""Detection networks that ultralytics does not ship."""
