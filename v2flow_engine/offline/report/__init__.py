"""A folder of pictures -> one page that says how the job went."""
