"""Cells on other processes: `schedule` decides, `worker` answers, `driver` feeds a pool and writes the store.

The pools: `pool`, a Ray cluster's actors; `processes`, children of this process under interpreters that methods name.
"""
