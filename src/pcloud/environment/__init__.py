"""The interfaces through which the engine touches the world: nothing else of the engine does I/O or reads a clock.

`infrastructure`, `transport`, `scheduler` and `journal` each hold one interface and the values that cross it. There are
two implementations of each: the real ones (rooms `infrastructure`, `transport`, `scheduler`) and the simulator.
Time: `Clock.time()` is for records; waiting goes through the event loop, which the simulator replaces by one that jumps.
"""
