"""JSON schemas of the resources of KubeRay that the launch files use.

KubeRay's own schemas are part of its Helm chart and of no package, so the fields of RayCluster and RayJob (ray.io/v1,
as of KubeRay 1.7) are written down here, as far as they may be used. All that is Kubernetes' own in them, most of
all the pods, is checked against Kubernetes' schemas, in which unknown fields are refused.
"""

from typing import Any

from jsonschema.validators import Draft202012Validator
from kubernetes_validate.utils import schema_contents
from referencing import Registry, Resource

KUBERNETES = "1.37.0"
_DEFINITIONS = "https://kubernetes.io/api/_definitions.json"  # their own name; nothing is fetched

TEXT, FLAG, COUNT = {"type": "string"}, {"type": "boolean"}, {"type": "integer", "minimum": 0}
TEXTS = {"type": "object", "additionalProperties": TEXT}


def kubernetes(name: str) -> dict[str, str]:
    return {"$ref": f"{_DEFINITIONS}#/$defs/io.k8s.{name}"}


def fields(required: tuple[str, ...] = (), **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


RESOURCES = kubernetes("api.core.v1.ResourceRequirements")
POD = kubernetes("api.core.v1.PodTemplateSpec")
ENVIRONMENT = {"type": "array", "items": kubernetes("api.core.v1.EnvVar")}
SECRET_VALUE = fields(value=TEXT, valueFrom=kubernetes("api.core.v1.EnvVarSource"))

CLUSTER = fields(
    ("headGroupSpec",),
    rayVersion=TEXT,
    authOptions=fields(mode={"enum": ["disabled", "token"]}),
    enableInTreeAutoscaling=FLAG,
    autoscalerOptions=fields(
        version={"enum": ["v1", "v2"]},
        idleTimeoutSeconds=COUNT,
        upscalingMode={"enum": ["Default", "Aggressive", "Conservative"]},
        image=TEXT,
        resources=RESOURCES,
        env=ENVIRONMENT,
    ),
    gcsFaultToleranceOptions=fields(
        redisAddress=TEXT, redisUsername=SECRET_VALUE, redisPassword=SECRET_VALUE, externalStorageNamespace=TEXT
    ),
    headGroupSpec=fields(
        ("template",),
        serviceType={"enum": ["ClusterIP", "NodePort", "LoadBalancer"]},
        rayStartParams=TEXTS,
        labels=TEXTS,
        template=POD,
    ),
    workerGroupSpecs={
        "type": "array",
        "items": fields(
            ("groupName", "minReplicas", "maxReplicas", "template"),
            groupName=TEXT,
            replicas=COUNT,
            minReplicas=COUNT,
            maxReplicas=COUNT,
            numOfHosts=COUNT,
            idleTimeoutSeconds=COUNT,
            rayStartParams=TEXTS,
            labels=TEXTS,
            template=POD,
        ),
    },
)
JOB = fields(
    backoffLimit=COUNT,
    activeDeadlineSeconds=COUNT,
    shutdownAfterJobFinishes=FLAG,
    ttlSecondsAfterFinished=COUNT,
    entrypoint=TEXT,
    submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]},
    submitterConfig=fields(backoffLimit=COUNT),
    submitterPodTemplate=POD,
    rayClusterSpec=CLUSTER,
)


def errors(manifest: dict[str, Any]) -> list[str]:
    """What is wrong with a RayCluster or RayJob: where, and what; empty if nothing is."""
    schema = fields(
        ("apiVersion", "kind", "metadata", "spec"),
        apiVersion={"const": "ray.io/v1"},
        kind={"enum": ["RayCluster", "RayJob"]},
        metadata=kubernetes("apimachinery.pkg.apis.meta.v1.ObjectMeta"),
        spec=CLUSTER if manifest.get("kind") == "RayCluster" else JOB,
    )
    definitions = schema_contents(f"kubernetes-json-schema/v{KUBERNETES}-local-strict/_definitions.json", KUBERNETES)
    registry = Registry().with_resource(_DEFINITIONS, Resource.from_contents(definitions))
    validator = Draft202012Validator(schema, registry=registry)
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(manifest)]
