"""The parts of `slurm/devcluster`.

Words used here:
    cluster   all daemons of one Slurm installation on this machine, with everything they write, in one folder
    daemon    one program of a cluster that runs in the background: munged, mariadb, slurmdbd, slurmctld, slurmd.n1 ...
    node      a pretended machine: one slurmd, the slurmstepds it has started, and their jobs
    variant   a named change of the configuration, such as `no-accounting`; several can be combined
    block     a few TCP ports in a row that belong to one cluster, and with them a range of job ids
"""
