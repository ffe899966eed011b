"""Again: live sandboxes and interpreters by their ids, how long they live, who ends them."""
