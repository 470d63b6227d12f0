"""The only place where names of files on disk are written: a module for the folders of each kind of job."""
