"""What each key uses: counts by day in a SQLite file that several processes share, and quotas of a minute and a day."""
