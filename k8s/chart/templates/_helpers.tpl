{{/* For the initContainers of your Deployment: `up`, or `wait` where the hook Job migrates. */}}
{{- define "pgslipway.initContainer" -}}
{{ include "pgslipway.container" (dict "Values" .Values "login" (include "pgslipway.podLogin" .)) }}
{{- if eq .Values.mode "job" }}
  args: [wait]
{{- end }}
{{- end -}}

{{/* For the volumes of your Deployment: what the initContainer mounts. */}}
{{- define "pgslipway.volumes" -}}
{{ include "pgslipway.volumesOf" (dict "Values" .Values "login" (include "pgslipway.podLogin" .)) }}
{{- end -}}

{{/* The Secret whose user and password the app's pods take. */}}
{{- define "pgslipway.podLogin" -}}
{{- if eq .Values.mode "job" -}}
{{ .Values.database.waitSecret | default .Values.database.secret }}
{{- else -}}
{{ .Values.database.secret }}
{{- end -}}
{{- end -}}

{{/* The settings that say which schemas or databases; empty where it is the one database. */}}
{{- define "pgslipway.targets" -}}
{{- with .Values.targets -}}
{{- if or .list .query -}}
- name: MIGRATE_TARGET_KIND
  value: {{ .kind }}
{{- with .list }}
- name: MIGRATE_TARGETS
  value: {{ join "\n" . | quote }}
{{- end }}
{{- with .query }}
- name: MIGRATE_TARGETS_QUERY
  value: {{ . | quote }}
{{- end }}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "pgslipway.container" -}}
{{- $database := .Values.database -}}
- name: migrate
  image: {{ .Values.image | quote }}
  imagePullPolicy: {{ .Values.imagePullPolicy }}
  env:
    - name: PGHOST
      valueFrom:
        secretKeyRef:
          name: {{ $database.secret | quote }}
          key: {{ $database.keys.host | quote }}
    - name: PGPORT
      valueFrom:
        secretKeyRef:
          name: {{ $database.secret | quote }}
          key: {{ $database.keys.port | quote }}
    - name: PGDATABASE
      valueFrom:
        secretKeyRef:
          name: {{ $database.secret | quote }}
          key: {{ $database.keys.database | quote }}
    - name: PGUSER
      valueFrom:
        secretKeyRef:
          name: {{ .login | quote }}
          key: {{ $database.keys.user | quote }}
    # A file, not PGPASSWORD: environments end up in crash reports and in the runtime's own records.
    - name: PGPASSWORD_FILE
      value: /run/secrets/database/PGPASSWORD
    {{- if $database.caSecret }}
    - name: PGSSLMODE
      value: verify-full
    - name: PGSSLROOTCERT
      value: /run/secrets/postgres-ca/ca.crt
    {{- end }}
    {{- with include "pgslipway.targets" . }}
    {{- . | nindent 4 }}
    {{- end }}
    {{- with .shards }}
    - name: MIGRATE_SHARDS
      value: {{ . | quote }}
    {{- end }}
    {{- range $name, $value := .Values.settings }}
    - name: {{ $name }}
      value: {{ $value | quote }}
    {{- end }}
  volumeMounts:
    - name: database-password
      mountPath: /run/secrets/database
      readOnly: true
    {{- if $database.caSecret }}
    - name: postgres-ca
      mountPath: /run/secrets/postgres-ca
      readOnly: true
    {{- end }}
  terminationMessagePolicy: FallbackToLogsOnError
  resources:
    {{- toYaml .Values.resources | nindent 4 }}
  # All of it here and nothing at the pod: in your Deployment, the pod is yours.
  securityContext:
    runAsNonRoot: true
    {{- with .Values.runAsUser }}
    runAsUser: {{ int64 . }}
    {{- end }}
    allowPrivilegeEscalation: false
    readOnlyRootFilesystem: true
    capabilities:
      drop: [ALL]
    seccompProfile:
      type: RuntimeDefault
{{- end -}}

{{- define "pgslipway.volumesOf" -}}
- name: database-password
  secret:
    secretName: {{ .login | quote }}
    items:
      - key: {{ .Values.database.keys.password | quote }}
        path: PGPASSWORD
{{- with .Values.database.caSecret }}
- name: postgres-ca
  secret:
    secretName: {{ . | quote }}
    items:
      - key: ca.crt
        path: ca.crt
{{- end }}
{{- end -}}
