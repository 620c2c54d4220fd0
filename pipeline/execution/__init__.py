"""Where the work is done: in this process, on a cluster inside it, or on one that exists.

The only folder that knows `distributed`. A runner holds one *resident* in every worker process
(whatever must be loaded once, such as a network) and calls functions with it. Tasks carry small
values to the workers and bring small values back; pixels never travel. Several runs may use one
runner at a time, each in a thread of its own.
"""
