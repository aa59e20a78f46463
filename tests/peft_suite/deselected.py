def reason_to_deselect(nodeid):
    return None
