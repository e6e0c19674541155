{{- define "bentoflow.family" -}}
app.kubernetes.io/name: bentoflow
app.kubernetes.io/component: service
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "bentoflow.stable" -}}
{{ include "bentoflow.family" . }}
bentoflow/track: stable
{{- end }}

{{- /* One release, its pods and the Service that reaches them alone: (dict "root" $ "track" … "suffix" … "image" …) */}}
{{- define "bentoflow.release" -}}
{{- $labels := printf "%s\nbentoflow/track: %s" (include "bentoflow.family" .root) .track -}}
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ .root.Release.Name }}-service{{ .suffix }}
  labels: {{- $labels | nindent 4 }}
  annotations:
    checkov.io/skip1: CKV_K8S_35=the service reads its settings from the environment alone, see bentos/
    checkov.io/skip2: CKV_K8S_15=the image is named by digest, so a pull could bring nothing else
spec:
  {{- with .replicas }}
  replicas: {{ . }}
  {{- end }}
  revisionHistoryLimit: 5
  minReadySeconds: 5
  progressDeadlineSeconds: 300
  strategy:
    type: RollingUpdate
    rollingUpdate: {maxUnavailable: 0, maxSurge: 1}
  selector:
    matchLabels: {{- $labels | nindent 6 }}
  template:
    metadata:
      labels: {{- $labels | nindent 8 }}
      annotations:
        prometheus.io/scrape: "true"
        prometheus.io/path: /metrics
        prometheus.io/port: "3000"
    spec:
      serviceAccountName: {{ .root.Release.Name }}-service
      automountServiceAccountToken: false
      enableServiceLinks: false
      terminationGracePeriodSeconds: 60
      securityContext:
        runAsNonRoot: true
        runAsUser: 10001
        runAsGroup: 10001
        fsGroup: 10001
        fsGroupChangePolicy: OnRootMismatch
        seccompProfile: {type: RuntimeDefault}
      topologySpreadConstraints:
        {{- range list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
        - maxSkew: 1
          topologyKey: {{ . }}
          whenUnsatisfiable: ScheduleAnyway
          matchLabelKeys: [pod-template-hash]
          labelSelector:
            matchLabels: {{- $labels | nindent 14 }}
        {{- end }}
      containers:
        - name: service
          image: {{ .image.repository }}@{{ .image.digest }}
          imagePullPolicy: IfNotPresent
          ports:
            - {name: http, containerPort: 3000, protocol: TCP}
          env:
            - {name: PORT, value: "3000"}
            - {name: BENTOFLOW_HOME, value: /var/lib/bentoflow}
            - {name: BENTOML_HOME, value: /tmp/bentoml}
            - {name: BENTOML_DO_NOT_TRACK, value: "True"}
            - {name: DO_NOT_TRACK, value: "true"}
            - name: BENTOFLOW_ONLINE_STORE
              valueFrom: {secretKeyRef: {name: online-store, key: url}}
          resources: {{- toYaml .root.Values.resources | nindent 12 }}
          securityContext:
            allowPrivilegeEscalation: false
            privileged: false
            readOnlyRootFilesystem: true
            capabilities: {drop: [ALL]}
          startupProbe:
            httpGet: {path: /readyz, port: http}
            periodSeconds: 2
            timeoutSeconds: 2
            failureThreshold: 90
          readinessProbe:
            httpGet: {path: /readyz, port: http}
            periodSeconds: 5
            timeoutSeconds: 2
            failureThreshold: 2
          livenessProbe:
            httpGet: {path: /livez, port: http}
            periodSeconds: 10
            timeoutSeconds: 5
            failureThreshold: 3
          lifecycle:
            preStop:
              sleep: {seconds: 10}
          volumeMounts:
            - {name: tmp, mountPath: /tmp}
            - {name: rollout, mountPath: /var/lib/bentoflow/rollout, readOnly: true}
            - {name: feast, mountPath: /var/lib/bentoflow/feast, readOnly: true}
            - {name: journal, mountPath: /var/lib/bentoflow/journal}
      volumes:
        - name: tmp
          emptyDir: {sizeLimit: 512Mi}
        - name: rollout
          configMap: {name: {{ .root.Release.Name }}-rollout, defaultMode: 292}
        - name: feast
          persistentVolumeClaim: {claimName: feast}
        - name: journal
          persistentVolumeClaim: {claimName: journal}
---
apiVersion: v1
kind: Service
metadata:
  name: {{ .root.Release.Name }}-service{{ .suffix }}
  labels: {{- $labels | nindent 4 }}
spec:
  type: ClusterIP
  selector: {{- $labels | nindent 4 }}
  ports:
    - {name: http, port: 80, targetPort: http, protocol: TCP, appProtocol: http}
{{- end }}
