"""What kubectl, docker, Slurm, PBS, LSF and SkyPilot call it -> what does it here."""

from __future__ import annotations

from collections.abc import Sequence

_PROGRAMS = frozenset(("kubectl", "docker", "podman", "slurm", "sky", "k", "flux", "argocd"))
"""Their own names: the word after them counts."""
_WORDS: dict[str, str] = {
    # Begin something.
    **dict.fromkeys(("srun", "launch", "dsub", "fire"), "run -- PROGRAM"),
    **dict.fromkeys(("sbatch", "submit", "qsub", "bsub"), "run -d -- PROGRAM"),
    **dict.fromkeys(("salloc", "shell", "debug"), "run -it -- bash"),
    "sattach": "attach JOB",
    **dict.fromkeys(("rollout", "restart", "scontrol requeue", "brequeue", "requeue"), "rerun JOB"),
    **dict.fromkeys(("scale", "autoscale"), "rerun JOB --set spec.replicas=N"),
    "set": "rerun JOB --set spec.FIELD=VALUE",
    **dict.fromkeys(("qalter", "scontrol update", "renew", "bmod"), "extend JOB +2h"),
    **dict.fromkeys(("start", "daemon", "up", "api"), "serve"),
    # See it.
    **dict.fromkeys(
        ("ps", "ls", "list", "jobs", "status", "stat", "qstat", "bjobs", "pods", "containers"),
        "get jobs",
    ),
    **dict.fromkeys(("sacct", "jobinfo", "history"), "get jobs -o wide"),
    **dict.fromkeys(("sinfo", "nodes", "pbsnodes", "bhosts", "lsid", "gpus", "show-gpus"), "get nodes"),
    **dict.fromkeys(("squeue", "qinfo", "showq"), "queue"),
    **dict.fromkeys(("sprio", "sched"), "why JOB"),
    **dict.fromkeys(("sstat", "stats", "sview", "smap"), "top jobs"),
    **dict.fromkeys(("sshare", "sreport", "cost-report", "usage"), "top users"),
    **dict.fromkeys(("nvidia-smi", "gpustat", "nvtop", "htop"), "top nodes"),
    **dict.fromkeys(("show", "inspect", "scontrol", "scontrol show"), "describe job NAME"),
    **dict.fromkeys(("log", "bpeek", "tail"), "logs JOB -f"),
    **dict.fromkeys(("cluster-info", "whereami", "ping"), "version"),
    **dict.fromkeys(("api-versions", "kinds"), "api-resources"),
    **dict.fromkeys(("check", "info", "sdiag", "health"), "doctor"),
    # Hold and end it.
    **dict.fromkeys(("cancel", "scancel", "rm", "qdel", "bkill", "down", "terminate", "remove"), "delete job NAME"),
    "kill": "delete job NAME --now",
    **dict.fromkeys(("stop", "pause", "hold", "scontrol hold", "qhold", "bstop"), "suspend JOB"),
    **dict.fromkeys(("unpause", "release", "scontrol release", "qrls", "bresume"), "resume JOB"),
    **dict.fromkeys(("strigger", "depend"), "wait job/NAME --for=finished"),
    # Look after the cluster.
    "taint": "cordon NODE",
    "init": "cluster init",
    "swarm": "cluster status",
    **dict.fromkeys(("join", "join-token"), "cluster join-token"),
    **dict.fromkeys(("pull", "push", "load", "images", "image"), "cluster image push IMAGE"),
    **dict.fromkeys(("secrets", "storage"), "secret list"),
    **dict.fromkeys(("checkpoint", "ckpt", "saves"), "checkpoints JOB"),
    **dict.fromkeys(("sources", "repo", "app"), "source list"),
    **dict.fromkeys(("validate", "kubeconform"), "lint DIRECTORY"),
    **dict.fromkeys(("reconcile", "sync", "kustomize"), "source sync NAME"),
    **dict.fromkeys(("tokens",), "token list"),
    **dict.fromkeys(("sacctmgr", "clusterrole", "rbac"), "get rolebindings"),
    "logout": "context delete NAME",
    "contexts": "context list",
    **dict.fromkeys(("whoami", "id"), "auth whoami"),
    "can-i": "auth can-i VERB KIND",
    **dict.fromkeys(("config", "proxy"), "kubeconfig"),
    **dict.fromkeys(("man", "docs", "usage-help"), "help"),
    **dict.fromkeys(("namespace", "ns", "use"), "context use -n NAME"),
}


def meant(arguments: Sequence[str], verbs: Sequence[str]) -> str:
    """The command line of ours that somebody means who types theirs; "" where nobody knows. `verbs`: ours."""
    words = [word.lower() for word in arguments if not word.startswith("-")]
    if words[:1] and words[0] in _PROGRAMS:
        words = words[1:]
        if words and words[0] in verbs:
            return words[0]
    if not words:
        return ""
    return _WORDS.get(" ".join(words[:2])) or _WORDS.get(words[0], "")
