"""The processes around the application: one server, or a supervisor and its workers behind one port."""
