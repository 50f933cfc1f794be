"""Events of the product as values, and how people and programs are told of them: channels, routes, a spool, and
incidents. Knows nothing of what is watched."""
