"""Below everything: tickers, waiting, clocks, threads, kernel files and the log."""
