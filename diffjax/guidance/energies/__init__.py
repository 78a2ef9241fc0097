"""What gradient guidance goes down: energies of x0, one for each picture; low where the picture is as wanted."""
