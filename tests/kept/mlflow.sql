BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('dc11669786a5');
CREATE TABLE "assessments" (
	assessment_id VARCHAR(50) NOT NULL, 
	trace_id VARCHAR(50) NOT NULL, 
	name VARCHAR(250) NOT NULL, 
	assessment_type VARCHAR(20) NOT NULL, 
	value TEXT NOT NULL, 
	error TEXT, 
	created_timestamp BIGINT NOT NULL, 
	last_updated_timestamp BIGINT NOT NULL, 
	source_type VARCHAR(50) NOT NULL, 
	source_id VARCHAR(250), 
	run_id VARCHAR(32), 
	span_id VARCHAR(50), 
	rationale TEXT, 
	overrides VARCHAR(50), 
	valid BOOLEAN NOT NULL, 
	assessment_metadata TEXT, 
	experiment_id INTEGER, 
	trace_timestamp_ms BIGINT, 
	aggregate_value FLOAT, 
	is_numeric_value BOOLEAN DEFAULT 0 NOT NULL, 
	CONSTRAINT assessments_pk PRIMARY KEY (assessment_id), 
	CONSTRAINT fk_assessments_trace_id FOREIGN KEY(trace_id) REFERENCES trace_info (request_id) ON DELETE CASCADE
);
CREATE TABLE budget_policies (
	budget_policy_id VARCHAR(36) NOT NULL, 
	budget_unit VARCHAR(32) NOT NULL, 
	budget_amount FLOAT NOT NULL, 
	duration_unit VARCHAR(32) NOT NULL, 
	duration_value INTEGER NOT NULL, 
	target_scope VARCHAR(32) NOT NULL, 
	budget_action VARCHAR(32) NOT NULL, 
	created_by VARCHAR(255), 
	created_at BIGINT NOT NULL, 
	last_updated_by VARCHAR(255), 
	last_updated_at BIGINT NOT NULL, 
	workspace VARCHAR(63) DEFAULT 'default' NOT NULL, target_value VARCHAR(255), 
	CONSTRAINT budget_policies_pk PRIMARY KEY (budget_policy_id)
);
CREATE TABLE "datasets" (
	dataset_uuid VARCHAR(36) NOT NULL, 
	experiment_id INTEGER NOT NULL, 
	name VARCHAR(500) NOT NULL, 
	digest VARCHAR(36) NOT NULL, 
	dataset_source_type VARCHAR(36) NOT NULL, 
	dataset_source TEXT NOT NULL, 
	dataset_schema TEXT, 
	dataset_profile TEXT, 
	CONSTRAINT dataset_pk PRIMARY KEY (experiment_id, name, digest), 
	CONSTRAINT fk_datasets_experiment_id_experiments FOREIGN KEY(experiment_id) REFERENCES experiments (experiment_id) ON DELETE CASCADE
);
CREATE TABLE endpoint_bindings (
	endpoint_id VARCHAR(36) NOT NULL, 
	resource_type VARCHAR(50) NOT NULL, 
	resource_id VARCHAR(255) NOT NULL, 
	created_at BIGINT NOT NULL, 
	created_by VARCHAR(255), 
	last_updated_at BIGINT NOT NULL, 
	last_updated_by VARCHAR(255), display_name VARCHAR(255), 
	CONSTRAINT endpoint_bindings_pk PRIMARY KEY (endpoint_id, resource_type, resource_id), 
	CONSTRAINT fk_endpoint_bindings_endpoint_id FOREIGN KEY(endpoint_id) REFERENCES endpoints (endpoint_id) ON DELETE CASCADE
);
CREATE TABLE endpoint_model_mappings (
	mapping_id VARCHAR(36) NOT NULL, 
	endpoint_id VARCHAR(36) NOT NULL, 
	model_definition_id VARCHAR(36) NOT NULL, 
	weight FLOAT NOT NULL, 
	created_by VARCHAR(255), 
	created_at BIGINT NOT NULL, linkage_type VARCHAR(64) DEFAULT 'PRIMARY' NOT NULL, fallback_order INTEGER, 
	CONSTRAINT endpoint_model_mappings_pk PRIMARY KEY (mapping_id), 
	CONSTRAINT fk_endpoint_model_mappings_endpoint_id FOREIGN KEY(endpoint_id) REFERENCES endpoints (endpoint_id) ON DELETE CASCADE, 
	CONSTRAINT fk_endpoint_model_mappings_model_definition_id FOREIGN KEY(model_definition_id) REFERENCES model_definitions (model_definition_id)
);
CREATE TABLE endpoint_tags (
	"key" VARCHAR(250) NOT NULL, 
	value VARCHAR(5000), 
	endpoint_id VARCHAR(36) NOT NULL, 
	CONSTRAINT endpoint_tag_pk PRIMARY KEY ("key", endpoint_id), 
	CONSTRAINT fk_endpoint_tags_endpoint_id FOREIGN KEY(endpoint_id) REFERENCES endpoints (endpoint_id) ON DELETE CASCADE
);
CREATE TABLE "endpoints" (
	endpoint_id VARCHAR(36) NOT NULL, 
	name VARCHAR(255), 
	created_by VARCHAR(255), 
	created_at BIGINT NOT NULL, 
	last_updated_by VARCHAR(255), 
	last_updated_at BIGINT NOT NULL, 
	routing_strategy VARCHAR(64), 
	fallback_config_json TEXT, 
	experiment_id INTEGER, 
	usage_tracking BOOLEAN DEFAULT '0' NOT NULL, 
	workspace VARCHAR(63) DEFAULT 'default' NOT NULL, 
	CONSTRAINT endpoints_pk PRIMARY KEY (endpoint_id), 
	CONSTRAINT fk_endpoints_experiment_id FOREIGN KEY(experiment_id) REFERENCES experiments (experiment_id) ON DELETE SET NULL, 
	CONSTRAINT uq_endpoints_workspace_name UNIQUE (workspace, name)
);
CREATE TABLE entity_associations (
	association_id VARCHAR(36) NOT NULL, 
	source_type VARCHAR(36) NOT NULL, 
	source_id VARCHAR(36) NOT NULL, 
	destination_type VARCHAR(36) NOT NULL, 
	destination_id VARCHAR(36) NOT NULL, 
	created_time BIGINT, 
	CONSTRAINT entity_associations_pk PRIMARY KEY (source_type, source_id, destination_type, destination_id)
);
CREATE TABLE "evaluation_dataset_records" (
	dataset_record_id VARCHAR(36) NOT NULL, 
	dataset_id VARCHAR(36) NOT NULL, 
	inputs JSON NOT NULL, 
	expectations JSON, 
	tags JSON, 
	source JSON, 
	source_id VARCHAR(36), 
	source_type VARCHAR(255), 
	created_time BIGINT, 
	last_update_time BIGINT, 
	created_by VARCHAR(255), 
	last_updated_by VARCHAR(255), 
	input_hash VARCHAR(64) NOT NULL, outputs JSON, 
	CONSTRAINT evaluation_dataset_records_pk PRIMARY KEY (dataset_record_id), 
	CONSTRAINT fk_evaluation_dataset_records_dataset_id FOREIGN KEY(dataset_id) REFERENCES evaluation_datasets (dataset_id) ON DELETE CASCADE, 
	CONSTRAINT unique_dataset_input UNIQUE (dataset_id, input_hash)
);
CREATE TABLE evaluation_dataset_tags (
	dataset_id VARCHAR(36) NOT NULL, 
	"key" VARCHAR(255) NOT NULL, 
	value VARCHAR(5000), 
	CONSTRAINT evaluation_dataset_tags_pk PRIMARY KEY (dataset_id, "key"), 
	CONSTRAINT fk_evaluation_dataset_tags_dataset_id FOREIGN KEY(dataset_id) REFERENCES evaluation_datasets (dataset_id) ON DELETE CASCADE
);
CREATE TABLE "evaluation_datasets" (
	dataset_id VARCHAR(36) NOT NULL, 
	name VARCHAR(255) NOT NULL, 
	schema TEXT, 
	profile TEXT, 
	digest VARCHAR(64), 
	created_time BIGINT, 
	last_update_time BIGINT, 
	created_by VARCHAR(255), 
	last_updated_by VARCHAR(255), 
	workspace VARCHAR(63) DEFAULT 'default' NOT NULL, 
	CONSTRAINT evaluation_datasets_pk PRIMARY KEY (dataset_id)
);
CREATE TABLE "experiment_tags" (
	"key" VARCHAR(250) NOT NULL, 
	value TEXT, 
	experiment_id INTEGER NOT NULL, 
	CONSTRAINT experiment_tag_pk PRIMARY KEY ("key", experiment_id), 
	FOREIGN KEY(experiment_id) REFERENCES experiments (experiment_id)
);
CREATE TABLE "experiments" (
	experiment_id INTEGER NOT NULL, 
	name VARCHAR(256) NOT NULL, 
	artifact_location VARCHAR(256), 
	lifecycle_stage VARCHAR(32), 
	creation_time BIGINT, 
	last_update_time BIGINT, 
	workspace VARCHAR(63) DEFAULT 'default' NOT NULL, 
	CONSTRAINT experiment_pk PRIMARY KEY (experiment_id), 
	CONSTRAINT experiments_lifecycle_stage CHECK (lifecycle_stage IN ('active', 'deleted')), 
	CONSTRAINT uq_experiments_workspace_name UNIQUE (workspace, name)
);
INSERT INTO "experiments" VALUES(0,'Default','@ROOT@/mlruns/0','active',1795711421497,1795711421497,'default');
INSERT INTO "experiments" VALUES(1,'kept','@ROOT@/home/artifacts/kept','active',1795711426881,1795711426881,'default');
INSERT INTO "experiments" VALUES(2,'raymlops-records','@ROOT@/home/artifacts/raymlops-records','active',1795711441044,1795711441044,'default');
INSERT INTO "experiments" VALUES(3,'cut','@ROOT@/home/artifacts/cut','active',1795711768204,1795711768204,'default');
CREATE TABLE guardrail_configs (
	endpoint_id VARCHAR(36) NOT NULL, 
	guardrail_id VARCHAR(36) NOT NULL, 
	execution_order INTEGER, 
	created_by VARCHAR(255), 
	created_at BIGINT NOT NULL, 
	workspace VARCHAR(63) DEFAULT 'default' NOT NULL, 
	CONSTRAINT guardrail_configs_pk PRIMARY KEY (endpoint_id, guardrail_id), 
	CONSTRAINT fk_guardrail_configs_endpoint_id FOREIGN KEY(endpoint_id) REFERENCES endpoints (endpoint_id) ON DELETE CASCADE, 
	CONSTRAINT fk_guardrail_configs_guardrail_id FOREIGN KEY(guardrail_id) REFERENCES guardrails (guardrail_id) ON DELETE CASCADE
);
CREATE TABLE guardrails (
	guardrail_id VARCHAR(36) NOT NULL, 
	name VARCHAR(255) NOT NULL, 
	scorer_id VARCHAR(36) NOT NULL, 
	scorer_version INTEGER NOT NULL, 
	stage VARCHAR(32) NOT NULL, 
	action VARCHAR(32) NOT NULL, 
	action_endpoint_id VARCHAR(36), 
	created_by VARCHAR(255), 
	created_at BIGINT NOT NULL, 
	last_updated_by VARCHAR(255), 
	last_updated_at BIGINT NOT NULL, 
	workspace VARCHAR(63) DEFAULT 'default' NOT NULL, 
	CONSTRAINT guardrails_pk PRIMARY KEY (guardrail_id), 
	CONSTRAINT fk_guardrails_scorer_version FOREIGN KEY(scorer_id, scorer_version) REFERENCES scorer_versions (scorer_id, scorer_version), 
	CONSTRAINT fk_guardrails_action_endpoint_id FOREIGN KEY(action_endpoint_id) REFERENCES endpoints (endpoint_id) ON DELETE SET NULL
);
CREATE TABLE input_tags (
	input_uuid VARCHAR(36) NOT NULL, 
	name VARCHAR(255) NOT NULL, 
	value VARCHAR(500) NOT NULL, 
	CONSTRAINT input_tags_pk PRIMARY KEY (input_uuid, name)
);
CREATE TABLE inputs (
	input_uuid VARCHAR(36) NOT NULL, 
	source_type VARCHAR(36) NOT NULL, 
	source_id VARCHAR(36) NOT NULL, 
	destination_type VARCHAR(36) NOT NULL, 
	destination_id VARCHAR(36) NOT NULL, step BIGINT DEFAULT '0' NOT NULL, 
	CONSTRAINT inputs_pk PRIMARY KEY (source_type, source_id, destination_type, destination_id)
);
CREATE TABLE issues (
	issue_id VARCHAR(36) NOT NULL, 
	experiment_id INTEGER NOT NULL, 
	name VARCHAR(250) NOT NULL, 
	description TEXT NOT NULL, 
	status VARCHAR(50) NOT NULL, 
	severity VARCHAR(50), 
	root_causes TEXT, 
	source_run_id VARCHAR(32), 
	categories TEXT, 
	created_timestamp BIGINT NOT NULL, 
	last_updated_timestamp BIGINT NOT NULL, 
	created_by VARCHAR(255), 
	CONSTRAINT issues_pk PRIMARY KEY (issue_id), 
	CONSTRAINT fk_issues_experiment_id FOREIGN KEY(experiment_id) REFERENCES experiments (experiment_id) ON DELETE CASCADE, 
	CONSTRAINT fk_issues_source_run_id FOREIGN KEY(source_run_id) REFERENCES runs (run_uuid) ON DELETE SET NULL
);
CREATE TABLE job_locks (
	lock_key VARCHAR(255) NOT NULL, 
	job_id VARCHAR(36) NOT NULL, 
	acquired_at BIGINT NOT NULL, 
	CONSTRAINT job_locks_pk PRIMARY KEY (lock_key), 
	CONSTRAINT fk_job_locks_job_id FOREIGN KEY(job_id) REFERENCES jobs (id) ON DELETE CASCADE
);
CREATE TABLE "jobs" (
	id VARCHAR(36) NOT NULL, 
	creation_time BIGINT NOT NULL, 
	job_name VARCHAR(500) NOT NULL, 
	params TEXT NOT NULL, 
	timeout FLOAT, 
	status INTEGER NOT NULL, 
	result TEXT, 
	retry_count INTEGER NOT NULL, 
	last_update_time BIGINT NOT NULL, 
	workspace VARCHAR(63) DEFAULT 'default' NOT NULL, status_details JSON, creator VARCHAR(255), executor_backend VARCHAR(255), lease_expires_at BIGINT, status_message TEXT, progress JSON, progress_updated_at BIGINT, token_hash VARCHAR(64), scoped_permissions JSON, next_attempt_at BIGINT, 
	CONSTRAINT jobs_pk PRIMARY KEY (id)
);
CREATE TABLE label_schemas (
	schema_id VARCHAR(36) NOT NULL, 
	experiment_id INTEGER NOT NULL, 
	name VARCHAR(250) NOT NULL, 
	type VARCHAR(16) NOT NULL, 
	instruction TEXT, 
	enable_comment BOOLEAN DEFAULT '0' NOT NULL, 
	input_type VARCHAR(32) NOT NULL, 
	input_config TEXT NOT NULL, 
	created_by VARCHAR(255), 
	created_time BIGINT NOT NULL, 
	last_update_time BIGINT NOT NULL, 
	is_default BOOLEAN DEFAULT 0 NOT NULL, 
	CONSTRAINT label_schemas_pk PRIMARY KEY (schema_id), 
	CONSTRAINT fk_label_schemas_experiment_id FOREIGN KEY(experiment_id) REFERENCES experiments (experiment_id) ON DELETE CASCADE, 
	CONSTRAINT uq_label_schemas_exp_name UNIQUE (experiment_id, name)
);
CREATE TABLE "latest_metrics" (
	"key" VARCHAR(250) NOT NULL, 
	value FLOAT NOT NULL, 
	timestamp BIGINT, 
	step BIGINT NOT NULL, 
	is_nan BOOLEAN NOT NULL, 
	run_uuid VARCHAR(32) NOT NULL, 
	CONSTRAINT latest_metric_pk PRIMARY KEY ("key", run_uuid), 
	FOREIGN KEY(run_uuid) REFERENCES runs (run_uuid), 
	CHECK (is_nan IN (0, 1))
);
INSERT INTO "latest_metrics" VALUES('train_loss',6.68763208389282270971e-01,1795711434207,2,0,'f3c5886096454fcf820be3ac3c159fa1');
INSERT INTO "latest_metrics" VALUES('roc_auc',9.47583947583947594495e-01,1795711434207,2,0,'f3c5886096454fcf820be3ac3c159fa1');
INSERT INTO "latest_metrics" VALUES('average_precision',9.40159073815480583746e-01,1795711434207,2,0,'f3c5886096454fcf820be3ac3c159fa1');
INSERT INTO "latest_metrics" VALUES('log_loss',6.56543333199979817216e-01,1795711434207,2,0,'f3c5886096454fcf820be3ac3c159fa1');
INSERT INTO "latest_metrics" VALUES('brier',2.31884210852216443576e-01,1795711434207,2,0,'f3c5886096454fcf820be3ac3c159fa1');
INSERT INTO "latest_metrics" VALUES('calibration_error',2.44613307714462269171e-01,1795711434207,2,0,'f3c5886096454fcf820be3ac3c159fa1');
INSERT INTO "latest_metrics" VALUES('accuracy',4.71428571428571419055e-01,1795711434207,2,0,'f3c5886096454fcf820be3ac3c159fa1');
INSERT INTO "latest_metrics" VALUES('best_roc_auc',9.47583947583947594495e-01,1795711434207,2,0,'f3c5886096454fcf820be3ac3c159fa1');
INSERT INTO "latest_metrics" VALUES('rows_per_second',5.05661139260343115873e+04,1795711434207,2,0,'f3c5886096454fcf820be3ac3c159fa1');
INSERT INTO "latest_metrics" VALUES('test_roc_auc',9.49845679012345733838e-01,1795711441550,0,0,'c51cd0f44ece4ff9bfe4b1c6c146975d');
INSERT INTO "latest_metrics" VALUES('test_average_precision',0.956754163000966,1795711441550,0,0,'c51cd0f44ece4ff9bfe4b1c6c146975d');
INSERT INTO "latest_metrics" VALUES('test_log_loss',6.59276999397579888118e-01,1795711441550,0,0,'c51cd0f44ece4ff9bfe4b1c6c146975d');
INSERT INTO "latest_metrics" VALUES('test_brier',2.33145733157474166485e-01,1795711441550,0,0,'c51cd0f44ece4ff9bfe4b1c6c146975d');
INSERT INTO "latest_metrics" VALUES('test_calibration_error',0.330805498010972,1795711441550,0,0,'c51cd0f44ece4ff9bfe4b1c6c146975d');
INSERT INTO "latest_metrics" VALUES('test_accuracy',4.70588235294117640528e-01,1795711441550,0,0,'c51cd0f44ece4ff9bfe4b1c6c146975d');
INSERT INTO "latest_metrics" VALUES('seconds_start',1.36257688800105825066e+00,1795711441550,0,0,'c51cd0f44ece4ff9bfe4b1c6c146975d');
INSERT INTO "latest_metrics" VALUES('seconds_data',5.36501510800008,1795711441550,0,0,'c51cd0f44ece4ff9bfe4b1c6c146975d');
INSERT INTO "latest_metrics" VALUES('seconds_search',7.35938672399788629263e+00,1795711441550,0,0,'c51cd0f44ece4ff9bfe4b1c6c146975d');
INSERT INTO "latest_metrics" VALUES('seconds_export',5.3310983760020462796e+00,1795711441550,0,0,'c51cd0f44ece4ff9bfe4b1c6c146975d');
INSERT INTO "latest_metrics" VALUES('seconds_register',1.98670927499915705993e+00,1795711441550,0,0,'c51cd0f44ece4ff9bfe4b1c6c146975d');
INSERT INTO "latest_metrics" VALUES('parity_difference',5.9604644775390625e-08,1795711441550,0,0,'c51cd0f44ece4ff9bfe4b1c6c146975d');
INSERT INTO "latest_metrics" VALUES('parity_flipped',0.0,1795711441550,0,0,'c51cd0f44ece4ff9bfe4b1c6c146975d');
INSERT INTO "latest_metrics" VALUES('train_loss',6.82130050659179643091e-01,1795711488622,2,0,'211f45f9e92e405b9360e2a202450d08');
INSERT INTO "latest_metrics" VALUES('roc_auc',9.31203931203931190019e-01,1795711488622,2,0,'211f45f9e92e405b9360e2a202450d08');
INSERT INTO "latest_metrics" VALUES('average_precision',9.25559769963207878973e-01,1795711488622,2,0,'211f45f9e92e405b9360e2a202450d08');
INSERT INTO "latest_metrics" VALUES('log_loss',6.71560000221139929976e-01,1795711488622,2,0,'211f45f9e92e405b9360e2a202450d08');
INSERT INTO "latest_metrics" VALUES('brier',2.39294409293849236197e-01,1795711488622,2,0,'211f45f9e92e405b9360e2a202450d08');
INSERT INTO "latest_metrics" VALUES('calibration_error',2.41520587035587847024e-01,1795711488622,2,0,'211f45f9e92e405b9360e2a202450d08');
INSERT INTO "latest_metrics" VALUES('accuracy',4.71428571428571419055e-01,1795711488622,2,0,'211f45f9e92e405b9360e2a202450d08');
INSERT INTO "latest_metrics" VALUES('best_roc_auc',9.31203931203931190019e-01,1795711488622,2,0,'211f45f9e92e405b9360e2a202450d08');
INSERT INTO "latest_metrics" VALUES('rows_per_second',5.85388206437867047483e+04,1795711488622,2,0,'211f45f9e92e405b9360e2a202450d08');
INSERT INTO "latest_metrics" VALUES('test_roc_auc',9.52160493827160503421e-01,1795711493025,0,0,'d5aec94d7777412384d99fbcc74c8961');
INSERT INTO "latest_metrics" VALUES('test_average_precision',9.56562423358088942393e-01,1795711493025,0,0,'d5aec94d7777412384d99fbcc74c8961');
INSERT INTO "latest_metrics" VALUES('test_log_loss',6.74713228293564504234e-01,1795711493025,0,0,'d5aec94d7777412384d99fbcc74c8961');
INSERT INTO "latest_metrics" VALUES('test_brier',2.40824602490150224687e-01,1795711493025,0,0,'d5aec94d7777412384d99fbcc74c8961');
INSERT INTO "latest_metrics" VALUES('test_calibration_error',3.01305858527912806543e-01,1795711493025,0,0,'d5aec94d7777412384d99fbcc74c8961');
INSERT INTO "latest_metrics" VALUES('test_accuracy',4.70588235294117640528e-01,1795711493025,0,0,'d5aec94d7777412384d99fbcc74c8961');
INSERT INTO "latest_metrics" VALUES('seconds_start',1.252270516000862699e+00,1795711493025,0,0,'d5aec94d7777412384d99fbcc74c8961');
INSERT INTO "latest_metrics" VALUES('seconds_data',8.23905289200047263875e+00,1795711493025,0,0,'d5aec94d7777412384d99fbcc74c8961');
INSERT INTO "latest_metrics" VALUES('seconds_search',5.54362389099696883931e+00,1795711493025,0,0,'d5aec94d7777412384d99fbcc74c8961');
INSERT INTO "latest_metrics" VALUES('seconds_export',3.46384616599971195682e+00,1795711493025,0,0,'d5aec94d7777412384d99fbcc74c8961');
INSERT INTO "latest_metrics" VALUES('seconds_register',0.914968505003344,1795711493025,0,0,'d5aec94d7777412384d99fbcc74c8961');
INSERT INTO "latest_metrics" VALUES('parity_difference',5.9604644775390625e-08,1795711493025,0,0,'d5aec94d7777412384d99fbcc74c8961');
INSERT INTO "latest_metrics" VALUES('parity_flipped',0.0,1795711493025,0,0,'d5aec94d7777412384d99fbcc74c8961');
INSERT INTO "latest_metrics" VALUES('train_loss',7.01566423688616130904e-02,1795711786705,12,0,'38e2094881b34fc0bfcc0b44398d9690');
INSERT INTO "latest_metrics" VALUES('roc_auc',1.0,1795711786705,12,0,'38e2094881b34fc0bfcc0b44398d9690');
INSERT INTO "latest_metrics" VALUES('average_precision',1.0,1795711786705,12,0,'38e2094881b34fc0bfcc0b44398d9690');
INSERT INTO "latest_metrics" VALUES('log_loss',6.94077824937191639742e-02,1795711786705,12,0,'38e2094881b34fc0bfcc0b44398d9690');
INSERT INTO "latest_metrics" VALUES('brier',1.42972317633108612217e-02,1795711786705,12,0,'38e2094881b34fc0bfcc0b44398d9690');
INSERT INTO "latest_metrics" VALUES('calibration_error',4.48737802250044684471e-02,1795711786705,12,0,'38e2094881b34fc0bfcc0b44398d9690');
INSERT INTO "latest_metrics" VALUES('accuracy',9.85714285714285765038e-01,1795711786705,12,0,'38e2094881b34fc0bfcc0b44398d9690');
INSERT INTO "latest_metrics" VALUES('best_roc_auc',1.0,1795711786705,12,0,'38e2094881b34fc0bfcc0b44398d9690');
INSERT INTO "latest_metrics" VALUES('rows_per_second',6.3618347269056891944e+02,1795711786705,12,0,'38e2094881b34fc0bfcc0b44398d9690');
CREATE TABLE logged_model_metrics (
	model_id VARCHAR(36) NOT NULL, 
	metric_name VARCHAR(500) NOT NULL, 
	metric_timestamp_ms BIGINT NOT NULL, 
	metric_step BIGINT NOT NULL, 
	metric_value FLOAT, 
	experiment_id INTEGER NOT NULL, 
	run_id VARCHAR(32) NOT NULL, 
	dataset_uuid VARCHAR(36), 
	dataset_name VARCHAR(500), 
	dataset_digest VARCHAR(36), 
	CONSTRAINT logged_model_metrics_pk PRIMARY KEY (model_id, metric_name, metric_timestamp_ms, metric_step, run_id), 
	CONSTRAINT fk_logged_model_metrics_experiment_id FOREIGN KEY(experiment_id) REFERENCES experiments (experiment_id), 
	CONSTRAINT fk_logged_model_metrics_model_id FOREIGN KEY(model_id) REFERENCES logged_models (model_id) ON DELETE CASCADE, 
	CONSTRAINT fk_logged_model_metrics_run_id FOREIGN KEY(run_id) REFERENCES runs (run_uuid) ON DELETE CASCADE
);
CREATE TABLE logged_model_params (
	model_id VARCHAR(36) NOT NULL, 
	experiment_id INTEGER NOT NULL, 
	param_key VARCHAR(255) NOT NULL, 
	param_value TEXT NOT NULL, 
	CONSTRAINT logged_model_params_pk PRIMARY KEY (model_id, param_key), 
	CONSTRAINT fk_logged_model_params_experiment_id FOREIGN KEY(experiment_id) REFERENCES experiments (experiment_id), 
	CONSTRAINT fk_logged_model_params_model_id FOREIGN KEY(model_id) REFERENCES logged_models (model_id) ON DELETE CASCADE
);
CREATE TABLE logged_model_tags (
	model_id VARCHAR(36) NOT NULL, 
	experiment_id INTEGER NOT NULL, 
	tag_key VARCHAR(255) NOT NULL, 
	tag_value TEXT NOT NULL, 
	CONSTRAINT logged_model_tags_pk PRIMARY KEY (model_id, tag_key), 
	CONSTRAINT fk_logged_model_tags_experiment_id FOREIGN KEY(experiment_id) REFERENCES experiments (experiment_id), 
	CONSTRAINT fk_logged_model_tags_model_id FOREIGN KEY(model_id) REFERENCES logged_models (model_id) ON DELETE CASCADE
);
CREATE TABLE logged_models (
	model_id VARCHAR(36) NOT NULL, 
	experiment_id INTEGER NOT NULL, 
	name VARCHAR(500) NOT NULL, 
	artifact_location VARCHAR(1000) NOT NULL, 
	creation_timestamp_ms BIGINT NOT NULL, 
	last_updated_timestamp_ms BIGINT NOT NULL, 
	status INTEGER NOT NULL, 
	lifecycle_stage VARCHAR(32), 
	model_type VARCHAR(500), 
	source_run_id VARCHAR(32), 
	status_message VARCHAR(1000), 
	CONSTRAINT logged_models_pk PRIMARY KEY (model_id), 
	CONSTRAINT logged_models_lifecycle_stage_check CHECK (lifecycle_stage IN ('active', 'deleted')), 
	CONSTRAINT fk_logged_models_experiment_id FOREIGN KEY(experiment_id) REFERENCES experiments (experiment_id) ON DELETE CASCADE
);
CREATE TABLE mcp_access_endpoints (
	id VARCHAR(36) NOT NULL, 
	workspace VARCHAR(63) DEFAULT 'default' NOT NULL, 
	server_name VARCHAR(256) NOT NULL, 
	server_version VARCHAR(128), 
	server_alias VARCHAR(256), 
	url VARCHAR(2048) NOT NULL, 
	transport_type VARCHAR(32) DEFAULT 'streamable-http' NOT NULL, 
	created_by VARCHAR(256), 
	last_updated_by VARCHAR(256), 
	created_at BIGINT NOT NULL, 
	last_updated_at BIGINT NOT NULL, 
	CONSTRAINT mcp_access_endpoints_pk PRIMARY KEY (id), 
	CONSTRAINT mcp_access_endpoints_server_fkey FOREIGN KEY(workspace, server_name) REFERENCES mcp_servers (workspace, name) ON DELETE CASCADE ON UPDATE CASCADE
);
CREATE TABLE mcp_server_aliases (
	workspace VARCHAR(63) DEFAULT 'default' NOT NULL, 
	name VARCHAR(256) NOT NULL, 
	alias VARCHAR(256) NOT NULL, 
	version VARCHAR(128) NOT NULL, 
	CONSTRAINT mcp_server_aliases_pk PRIMARY KEY (workspace, name, alias), 
	CONSTRAINT mcp_server_aliases_server_fkey FOREIGN KEY(workspace, name) REFERENCES mcp_servers (workspace, name) ON DELETE CASCADE ON UPDATE CASCADE
);
CREATE TABLE mcp_server_tags (
	workspace VARCHAR(63) DEFAULT 'default' NOT NULL, 
	name VARCHAR(256) NOT NULL, 
	"key" VARCHAR(250) NOT NULL, 
	value VARCHAR(5000), 
	CONSTRAINT mcp_server_tags_pk PRIMARY KEY (workspace, name, "key"), 
	CONSTRAINT mcp_server_tags_server_fkey FOREIGN KEY(workspace, name) REFERENCES mcp_servers (workspace, name) ON DELETE CASCADE ON UPDATE CASCADE
);
CREATE TABLE mcp_server_version_tags (
	workspace VARCHAR(63) DEFAULT 'default' NOT NULL, 
	name VARCHAR(256) NOT NULL, 
	version VARCHAR(128) NOT NULL, 
	"key" VARCHAR(250) NOT NULL, 
	value VARCHAR(5000), 
	CONSTRAINT mcp_server_version_tags_pk PRIMARY KEY (workspace, name, version, "key"), 
	CONSTRAINT mcp_server_version_tags_version_fkey FOREIGN KEY(workspace, name, version) REFERENCES mcp_server_versions (workspace, name, version) ON DELETE CASCADE ON UPDATE CASCADE
);
CREATE TABLE mcp_server_versions (
	workspace VARCHAR(63) DEFAULT 'default' NOT NULL, 
	name VARCHAR(256) NOT NULL, 
	version VARCHAR(128) NOT NULL, 
	version_major INTEGER NOT NULL, 
	version_minor INTEGER NOT NULL, 
	version_patch INTEGER NOT NULL, 
	version_prerelease_sort_key VARCHAR(512) NOT NULL, 
	server_json JSON NOT NULL, 
	status VARCHAR(20) DEFAULT 'draft' NOT NULL, 
	tools JSON, 
	source VARCHAR(512), 
	connect_options JSON, 
	created_by VARCHAR(256), 
	last_updated_by VARCHAR(256), 
	created_at BIGINT NOT NULL, 
	last_updated_at BIGINT NOT NULL, 
	CONSTRAINT mcp_server_versions_pk PRIMARY KEY (workspace, name, version), 
	CONSTRAINT mcp_server_versions_server_fkey FOREIGN KEY(workspace, name) REFERENCES mcp_servers (workspace, name) ON DELETE CASCADE ON UPDATE CASCADE
);
CREATE TABLE mcp_servers (
	workspace VARCHAR(63) DEFAULT 'default' NOT NULL, 
	name VARCHAR(256) NOT NULL, 
	display_name VARCHAR(256), 
	description TEXT, 
	icons JSON, 
	created_by VARCHAR(256), 
	last_updated_by VARCHAR(256), 
	created_at BIGINT NOT NULL, 
	last_updated_at BIGINT NOT NULL, 
	CONSTRAINT mcp_servers_pk PRIMARY KEY (workspace, name)
);
CREATE TABLE "metrics" (
	"key" VARCHAR(250) NOT NULL, 
	value FLOAT NOT NULL, 
	timestamp BIGINT NOT NULL, 
	run_uuid VARCHAR(32) NOT NULL, 
	step BIGINT DEFAULT '0' NOT NULL, 
	is_nan BOOLEAN DEFAULT '0' NOT NULL, 
	CONSTRAINT metric_pk PRIMARY KEY ("key", timestamp, step, run_uuid, value, is_nan), 
	FOREIGN KEY(run_uuid) REFERENCES runs (run_uuid), 
	CHECK (is_nan IN (0, 1))
);
INSERT INTO "metrics" VALUES('train_loss',7.02994012832641623766e-01,1795711434193,'f3c5886096454fcf820be3ac3c159fa1',1,0);
INSERT INTO "metrics" VALUES('roc_auc',9.28746928746928768205e-01,1795711434193,'f3c5886096454fcf820be3ac3c159fa1',1,0);
INSERT INTO "metrics" VALUES('average_precision',9.28170882450782941397e-01,1795711434193,'f3c5886096454fcf820be3ac3c159fa1',1,0);
INSERT INTO "metrics" VALUES('log_loss',6.72178914881513378531e-01,1795711434193,'f3c5886096454fcf820be3ac3c159fa1',1,0);
INSERT INTO "metrics" VALUES('brier',2.3960436473171245475e-01,1795711434193,'f3c5886096454fcf820be3ac3c159fa1',1,0);
INSERT INTO "metrics" VALUES('calibration_error',2.42019563061850406793e-01,1795711434193,'f3c5886096454fcf820be3ac3c159fa1',1,0);
INSERT INTO "metrics" VALUES('accuracy',4.71428571428571419055e-01,1795711434193,'f3c5886096454fcf820be3ac3c159fa1',1,0);
INSERT INTO "metrics" VALUES('best_roc_auc',9.28746928746928768205e-01,1795711434193,'f3c5886096454fcf820be3ac3c159fa1',1,0);
INSERT INTO "metrics" VALUES('rows_per_second',2.02420367133698018741e+04,1795711434193,'f3c5886096454fcf820be3ac3c159fa1',1,0);
INSERT INTO "metrics" VALUES('train_loss',6.68763208389282270971e-01,1795711434207,'f3c5886096454fcf820be3ac3c159fa1',2,0);
INSERT INTO "metrics" VALUES('roc_auc',9.47583947583947594495e-01,1795711434207,'f3c5886096454fcf820be3ac3c159fa1',2,0);
INSERT INTO "metrics" VALUES('average_precision',9.40159073815480583746e-01,1795711434207,'f3c5886096454fcf820be3ac3c159fa1',2,0);
INSERT INTO "metrics" VALUES('log_loss',6.56543333199979817216e-01,1795711434207,'f3c5886096454fcf820be3ac3c159fa1',2,0);
INSERT INTO "metrics" VALUES('brier',2.31884210852216443576e-01,1795711434207,'f3c5886096454fcf820be3ac3c159fa1',2,0);
INSERT INTO "metrics" VALUES('calibration_error',2.44613307714462269171e-01,1795711434207,'f3c5886096454fcf820be3ac3c159fa1',2,0);
INSERT INTO "metrics" VALUES('accuracy',4.71428571428571419055e-01,1795711434207,'f3c5886096454fcf820be3ac3c159fa1',2,0);
INSERT INTO "metrics" VALUES('best_roc_auc',9.47583947583947594495e-01,1795711434207,'f3c5886096454fcf820be3ac3c159fa1',2,0);
INSERT INTO "metrics" VALUES('rows_per_second',5.05661139260343115873e+04,1795711434207,'f3c5886096454fcf820be3ac3c159fa1',2,0);
INSERT INTO "metrics" VALUES('test_roc_auc',9.49845679012345733838e-01,1795711441550,'c51cd0f44ece4ff9bfe4b1c6c146975d',0,0);
INSERT INTO "metrics" VALUES('test_average_precision',0.956754163000966,1795711441550,'c51cd0f44ece4ff9bfe4b1c6c146975d',0,0);
INSERT INTO "metrics" VALUES('test_log_loss',6.59276999397579888118e-01,1795711441550,'c51cd0f44ece4ff9bfe4b1c6c146975d',0,0);
INSERT INTO "metrics" VALUES('test_brier',2.33145733157474166485e-01,1795711441550,'c51cd0f44ece4ff9bfe4b1c6c146975d',0,0);
INSERT INTO "metrics" VALUES('test_calibration_error',0.330805498010972,1795711441550,'c51cd0f44ece4ff9bfe4b1c6c146975d',0,0);
INSERT INTO "metrics" VALUES('test_accuracy',4.70588235294117640528e-01,1795711441550,'c51cd0f44ece4ff9bfe4b1c6c146975d',0,0);
INSERT INTO "metrics" VALUES('seconds_start',1.36257688800105825066e+00,1795711441550,'c51cd0f44ece4ff9bfe4b1c6c146975d',0,0);
INSERT INTO "metrics" VALUES('seconds_data',5.36501510800008,1795711441550,'c51cd0f44ece4ff9bfe4b1c6c146975d',0,0);
INSERT INTO "metrics" VALUES('seconds_search',7.35938672399788629263e+00,1795711441550,'c51cd0f44ece4ff9bfe4b1c6c146975d',0,0);
INSERT INTO "metrics" VALUES('seconds_export',5.3310983760020462796e+00,1795711441550,'c51cd0f44ece4ff9bfe4b1c6c146975d',0,0);
INSERT INTO "metrics" VALUES('seconds_register',1.98670927499915705993e+00,1795711441550,'c51cd0f44ece4ff9bfe4b1c6c146975d',0,0);
INSERT INTO "metrics" VALUES('parity_difference',5.9604644775390625e-08,1795711441550,'c51cd0f44ece4ff9bfe4b1c6c146975d',0,0);
INSERT INTO "metrics" VALUES('parity_flipped',0.0,1795711441550,'c51cd0f44ece4ff9bfe4b1c6c146975d',0,0);
INSERT INTO "metrics" VALUES('train_loss',7.05874729156494185033e-01,1795711488609,'211f45f9e92e405b9360e2a202450d08',1,0);
INSERT INTO "metrics" VALUES('roc_auc',8.88615888615888582791e-01,1795711488609,'211f45f9e92e405b9360e2a202450d08',1,0);
INSERT INTO "metrics" VALUES('average_precision',8.8292677654431006573e-01,1795711488609,'211f45f9e92e405b9360e2a202450d08',1,0);
INSERT INTO "metrics" VALUES('log_loss',6.8122512560922710012e-01,1795711488609,'211f45f9e92e405b9360e2a202450d08',1,0);
INSERT INTO "metrics" VALUES('brier',2.44097023553077274726e-01,1795711488609,'211f45f9e92e405b9360e2a202450d08',1,0);
INSERT INTO "metrics" VALUES('calibration_error',0.282686094726835,1795711488609,'211f45f9e92e405b9360e2a202450d08',1,0);
INSERT INTO "metrics" VALUES('accuracy',4.71428571428571419055e-01,1795711488609,'211f45f9e92e405b9360e2a202450d08',1,0);
INSERT INTO "metrics" VALUES('best_roc_auc',8.88615888615888582791e-01,1795711488609,'211f45f9e92e405b9360e2a202450d08',1,0);
INSERT INTO "metrics" VALUES('rows_per_second',2.59164411247533535052e+04,1795711488609,'211f45f9e92e405b9360e2a202450d08',1,0);
INSERT INTO "metrics" VALUES('train_loss',6.82130050659179643091e-01,1795711488622,'211f45f9e92e405b9360e2a202450d08',2,0);
INSERT INTO "metrics" VALUES('roc_auc',9.31203931203931190019e-01,1795711488622,'211f45f9e92e405b9360e2a202450d08',2,0);
INSERT INTO "metrics" VALUES('average_precision',9.25559769963207878973e-01,1795711488622,'211f45f9e92e405b9360e2a202450d08',2,0);
INSERT INTO "metrics" VALUES('log_loss',6.71560000221139929976e-01,1795711488622,'211f45f9e92e405b9360e2a202450d08',2,0);
INSERT INTO "metrics" VALUES('brier',2.39294409293849236197e-01,1795711488622,'211f45f9e92e405b9360e2a202450d08',2,0);
INSERT INTO "metrics" VALUES('calibration_error',2.41520587035587847024e-01,1795711488622,'211f45f9e92e405b9360e2a202450d08',2,0);
INSERT INTO "metrics" VALUES('accuracy',4.71428571428571419055e-01,1795711488622,'211f45f9e92e405b9360e2a202450d08',2,0);
INSERT INTO "metrics" VALUES('best_roc_auc',9.31203931203931190019e-01,1795711488622,'211f45f9e92e405b9360e2a202450d08',2,0);
INSERT INTO "metrics" VALUES('rows_per_second',5.85388206437867047483e+04,1795711488622,'211f45f9e92e405b9360e2a202450d08',2,0);
INSERT INTO "metrics" VALUES('test_roc_auc',9.52160493827160503421e-01,1795711493025,'d5aec94d7777412384d99fbcc74c8961',0,0);
INSERT INTO "metrics" VALUES('test_average_precision',9.56562423358088942393e-01,1795711493025,'d5aec94d7777412384d99fbcc74c8961',0,0);
INSERT INTO "metrics" VALUES('test_log_loss',6.74713228293564504234e-01,1795711493025,'d5aec94d7777412384d99fbcc74c8961',0,0);
INSERT INTO "metrics" VALUES('test_brier',2.40824602490150224687e-01,1795711493025,'d5aec94d7777412384d99fbcc74c8961',0,0);
INSERT INTO "metrics" VALUES('test_calibration_error',3.01305858527912806543e-01,1795711493025,'d5aec94d7777412384d99fbcc74c8961',0,0);
INSERT INTO "metrics" VALUES('test_accuracy',4.70588235294117640528e-01,1795711493025,'d5aec94d7777412384d99fbcc74c8961',0,0);
INSERT INTO "metrics" VALUES('seconds_start',1.252270516000862699e+00,1795711493025,'d5aec94d7777412384d99fbcc74c8961',0,0);
INSERT INTO "metrics" VALUES('seconds_data',8.23905289200047263875e+00,1795711493025,'d5aec94d7777412384d99fbcc74c8961',0,0);
INSERT INTO "metrics" VALUES('seconds_search',5.54362389099696883931e+00,1795711493025,'d5aec94d7777412384d99fbcc74c8961',0,0);
INSERT INTO "metrics" VALUES('seconds_export',3.46384616599971195682e+00,1795711493025,'d5aec94d7777412384d99fbcc74c8961',0,0);
INSERT INTO "metrics" VALUES('seconds_register',0.914968505003344,1795711493025,'d5aec94d7777412384d99fbcc74c8961',0,0);
INSERT INTO "metrics" VALUES('parity_difference',5.9604644775390625e-08,1795711493025,'d5aec94d7777412384d99fbcc74c8961',0,0);
INSERT INTO "metrics" VALUES('parity_flipped',0.0,1795711493025,'d5aec94d7777412384d99fbcc74c8961',0,0);
INSERT INTO "metrics" VALUES('train_loss',7.00649206978934180334e-01,1795711783926,'38e2094881b34fc0bfcc0b44398d9690',1,0);
INSERT INTO "metrics" VALUES('roc_auc',9.26289926289926235369e-01,1795711783926,'38e2094881b34fc0bfcc0b44398d9690',1,0);
INSERT INTO "metrics" VALUES('average_precision',9.25398465144817716776e-01,1795711783926,'38e2094881b34fc0bfcc0b44398d9690',1,0);
INSERT INTO "metrics" VALUES('log_loss',6.75788040875161311049e-01,1795711783926,'38e2094881b34fc0bfcc0b44398d9690',1,0);
INSERT INTO "metrics" VALUES('brier',2.41405828984488896038e-01,1795711783926,'38e2094881b34fc0bfcc0b44398d9690',1,0);
INSERT INTO "metrics" VALUES('calibration_error',3.08530311073575702618e-01,1795711783926,'38e2094881b34fc0bfcc0b44398d9690',1,0);
INSERT INTO "metrics" VALUES('accuracy',4.71428571428571419055e-01,1795711783926,'38e2094881b34fc0bfcc0b44398d9690',1,0);
INSERT INTO "metrics" VALUES('best_roc_auc',9.26289926289926235369e-01,1795711783926,'38e2094881b34fc0bfcc0b44398d9690',1,0);
INSERT INTO "metrics" VALUES('rows_per_second',3.05005761106014233524e+03,1795711783926,'38e2094881b34fc0bfcc0b44398d9690',1,0);
INSERT INTO "metrics" VALUES('train_loss',5.62981469290597114074e-01,1795711784050,'38e2094881b34fc0bfcc0b44398d9690',2,0);
INSERT INTO "metrics" VALUES('roc_auc',9.8116298116298117371e-01,1795711784050,'38e2094881b34fc0bfcc0b44398d9690',2,0);
INSERT INTO "metrics" VALUES('average_precision',9.79991611655204652997e-01,1795711784050,'38e2094881b34fc0bfcc0b44398d9690',2,0);
INSERT INTO "metrics" VALUES('log_loss',4.26297206086832414229e-01,1795711784050,'38e2094881b34fc0bfcc0b44398d9690',2,0);
INSERT INTO "metrics" VALUES('brier',1.44366244396042509023e-01,1795711784050,'38e2094881b34fc0bfcc0b44398d9690',2,0);
INSERT INTO "metrics" VALUES('calibration_error',2.44279141085488454843e-01,1795711784050,'38e2094881b34fc0bfcc0b44398d9690',2,0);
INSERT INTO "metrics" VALUES('accuracy',8.71428571428571441259e-01,1795711784050,'38e2094881b34fc0bfcc0b44398d9690',2,0);
INSERT INTO "metrics" VALUES('best_roc_auc',9.8116298116298117371e-01,1795711784050,'38e2094881b34fc0bfcc0b44398d9690',2,0);
INSERT INTO "metrics" VALUES('rows_per_second',2.43546327836708906039e+03,1795711784050,'38e2094881b34fc0bfcc0b44398d9690',2,0);
INSERT INTO "metrics" VALUES('train_loss',0.321430424281529,1795711784334,'38e2094881b34fc0bfcc0b44398d9690',3,0);
INSERT INTO "metrics" VALUES('roc_auc',9.934479934479933938e-01,1795711784334,'38e2094881b34fc0bfcc0b44398d9690',3,0);
INSERT INTO "metrics" VALUES('average_precision',9.92506347181067449803e-01,1795711784334,'38e2094881b34fc0bfcc0b44398d9690',3,0);
INSERT INTO "metrics" VALUES('log_loss',2.53957833254377152165e-01,1795711784334,'38e2094881b34fc0bfcc0b44398d9690',3,0);
INSERT INTO "metrics" VALUES('brier',6.93556542461300634672e-02,1795711784334,'38e2094881b34fc0bfcc0b44398d9690',3,0);
INSERT INTO "metrics" VALUES('calibration_error',1.75191029480525423123e-01,1795711784334,'38e2094881b34fc0bfcc0b44398d9690',3,0);
INSERT INTO "metrics" VALUES('accuracy',9.57142857142857184093e-01,1795711784334,'38e2094881b34fc0bfcc0b44398d9690',3,0);
INSERT INTO "metrics" VALUES('best_roc_auc',9.934479934479933938e-01,1795711784334,'38e2094881b34fc0bfcc0b44398d9690',3,0);
INSERT INTO "metrics" VALUES('rows_per_second',1.1007639171410494327e+03,1795711784334,'38e2094881b34fc0bfcc0b44398d9690',3,0);
INSERT INTO "metrics" VALUES('train_loss',2.48780087062290738986e-01,1795711784413,'38e2094881b34fc0bfcc0b44398d9690',4,0);
INSERT INTO "metrics" VALUES('roc_auc',9.95904995904995926636e-01,1795711784413,'38e2094881b34fc0bfcc0b44398d9690',4,0);
INSERT INTO "metrics" VALUES('average_precision',9.95538897377132747656e-01,1795711784413,'38e2094881b34fc0bfcc0b44398d9690',4,0);
INSERT INTO "metrics" VALUES('log_loss',1.60635071446066257649e-01,1795711784413,'38e2094881b34fc0bfcc0b44398d9690',4,0);
INSERT INTO "metrics" VALUES('brier',3.75318628100126602809e-02,1795711784413,'38e2094881b34fc0bfcc0b44398d9690',4,0);
INSERT INTO "metrics" VALUES('calibration_error',1.08965819009712763798e-01,1795711784413,'38e2094881b34fc0bfcc0b44398d9690',4,0);
INSERT INTO "metrics" VALUES('accuracy',9.71428571428571419055e-01,1795711784413,'38e2094881b34fc0bfcc0b44398d9690',4,0);
INSERT INTO "metrics" VALUES('best_roc_auc',9.95904995904995926636e-01,1795711784413,'38e2094881b34fc0bfcc0b44398d9690',4,0);
INSERT INTO "metrics" VALUES('rows_per_second',6.3560974188104137285e+03,1795711784413,'38e2094881b34fc0bfcc0b44398d9690',4,0);
INSERT INTO "metrics" VALUES('train_loss',1.70647961752755289444e-01,1795711784638,'38e2094881b34fc0bfcc0b44398d9690',5,0);
INSERT INTO "metrics" VALUES('roc_auc',9.99180999180999229736e-01,1795711784638,'38e2094881b34fc0bfcc0b44398d9690',5,0);
INSERT INTO "metrics" VALUES('average_precision',0.999108734402852,1795711784638,'38e2094881b34fc0bfcc0b44398d9690',5,0);
INSERT INTO "metrics" VALUES('log_loss',9.7901924212593971486e-02,1795711784638,'38e2094881b34fc0bfcc0b44398d9690',5,0);
INSERT INTO "metrics" VALUES('brier',1.75331678897386600279e-02,1795711784638,'38e2094881b34fc0bfcc0b44398d9690',5,0);
INSERT INTO "metrics" VALUES('calibration_error',8.40096957981586456298e-02,1795711784638,'38e2094881b34fc0bfcc0b44398d9690',5,0);
INSERT INTO "metrics" VALUES('accuracy',9.85714285714285765038e-01,1795711784638,'38e2094881b34fc0bfcc0b44398d9690',5,0);
INSERT INTO "metrics" VALUES('best_roc_auc',9.99180999180999229736e-01,1795711784638,'38e2094881b34fc0bfcc0b44398d9690',5,0);
INSERT INTO "metrics" VALUES('rows_per_second',1.58175671874783415659e+03,1795711784638,'38e2094881b34fc0bfcc0b44398d9690',5,0);
INSERT INTO "metrics" VALUES('train_loss',1.63346549442836219689e-01,1795711784835,'38e2094881b34fc0bfcc0b44398d9690',6,0);
INSERT INTO "metrics" VALUES('roc_auc',9.9836199836199834845e-01,1795711784835,'38e2094881b34fc0bfcc0b44398d9690',6,0);
INSERT INTO "metrics" VALUES('average_precision',9.98190460757305553229e-01,1795711784835,'38e2094881b34fc0bfcc0b44398d9690',6,0);
INSERT INTO "metrics" VALUES('log_loss',1.35311696250767665716e-01,1795711784835,'38e2094881b34fc0bfcc0b44398d9690',6,0);
INSERT INTO "metrics" VALUES('brier',3.05747931594504869512e-02,1795711784835,'38e2094881b34fc0bfcc0b44398d9690',6,0);
INSERT INTO "metrics" VALUES('calibration_error',8.27652767300605801681e-02,1795711784835,'38e2094881b34fc0bfcc0b44398d9690',6,0);
INSERT INTO "metrics" VALUES('accuracy',9.57142857142857184093e-01,1795711784835,'38e2094881b34fc0bfcc0b44398d9690',6,0);
INSERT INTO "metrics" VALUES('best_roc_auc',9.99180999180999229736e-01,1795711784835,'38e2094881b34fc0bfcc0b44398d9690',6,0);
INSERT INTO "metrics" VALUES('rows_per_second',1.69800534337094723019e+03,1795711784835,'38e2094881b34fc0bfcc0b44398d9690',6,0);
INSERT INTO "metrics" VALUES('train_loss',1.30711174011230474301e-01,1795711785010,'38e2094881b34fc0bfcc0b44398d9690',7,0);
INSERT INTO "metrics" VALUES('roc_auc',1.0,1795711785010,'38e2094881b34fc0bfcc0b44398d9690',7,0);
INSERT INTO "metrics" VALUES('average_precision',1.0,1795711785010,'38e2094881b34fc0bfcc0b44398d9690',7,0);
INSERT INTO "metrics" VALUES('log_loss',6.74073858978792156415e-02,1795711785010,'38e2094881b34fc0bfcc0b44398d9690',7,0);
INSERT INTO "metrics" VALUES('brier',1.03536573118811620064e-02,1795711785010,'38e2094881b34fc0bfcc0b44398d9690',7,0);
INSERT INTO "metrics" VALUES('calibration_error',6.04740590921470089202e-02,1795711785010,'38e2094881b34fc0bfcc0b44398d9690',7,0);
INSERT INTO "metrics" VALUES('accuracy',1.0,1795711785010,'38e2094881b34fc0bfcc0b44398d9690',7,0);
INSERT INTO "metrics" VALUES('best_roc_auc',1.0,1795711785010,'38e2094881b34fc0bfcc0b44398d9690',7,0);
INSERT INTO "metrics" VALUES('rows_per_second',2.21202207837579089763e+03,1795711785010,'38e2094881b34fc0bfcc0b44398d9690',7,0);
INSERT INTO "metrics" VALUES('train_loss',1.28600611005510595541e-01,1795711785138,'38e2094881b34fc0bfcc0b44398d9690',8,0);
INSERT INTO "metrics" VALUES('roc_auc',9.99180999180999229736e-01,1795711785138,'38e2094881b34fc0bfcc0b44398d9690',8,0);
INSERT INTO "metrics" VALUES('average_precision',0.999108734402852,1795711785138,'38e2094881b34fc0bfcc0b44398d9690',8,0);
INSERT INTO "metrics" VALUES('log_loss',6.45365111157534532271e-02,1795711785138,'38e2094881b34fc0bfcc0b44398d9690',8,0);
INSERT INTO "metrics" VALUES('brier',1.21356760851502910869e-02,1795711785138,'38e2094881b34fc0bfcc0b44398d9690',8,0);
INSERT INTO "metrics" VALUES('calibration_error',5.50075263317142196251e-02,1795711785138,'38e2094881b34fc0bfcc0b44398d9690',8,0);
INSERT INTO "metrics" VALUES('accuracy',9.85714285714285765038e-01,1795711785138,'38e2094881b34fc0bfcc0b44398d9690',8,0);
INSERT INTO "metrics" VALUES('best_roc_auc',1.0,1795711785138,'38e2094881b34fc0bfcc0b44398d9690',8,0);
INSERT INTO "metrics" VALUES('rows_per_second',2.64029435935483616044e+03,1795711785138,'38e2094881b34fc0bfcc0b44398d9690',8,0);
INSERT INTO "metrics" VALUES('train_loss',7.77846881321498373473e-02,1795711785662,'38e2094881b34fc0bfcc0b44398d9690',9,0);
INSERT INTO "metrics" VALUES('roc_auc',1.0,1795711785662,'38e2094881b34fc0bfcc0b44398d9690',9,0);
INSERT INTO "metrics" VALUES('average_precision',1.0,1795711785662,'38e2094881b34fc0bfcc0b44398d9690',9,0);
INSERT INTO "metrics" VALUES('log_loss',6.76444392893480600514e-02,1795711785662,'38e2094881b34fc0bfcc0b44398d9690',9,0);
INSERT INTO "metrics" VALUES('brier',1.35930789854830178647e-02,1795711785662,'38e2094881b34fc0bfcc0b44398d9690',9,0);
INSERT INTO "metrics" VALUES('calibration_error',0.0474411706839289,1795711785662,'38e2094881b34fc0bfcc0b44398d9690',9,0);
INSERT INTO "metrics" VALUES('accuracy',9.85714285714285765038e-01,1795711785662,'38e2094881b34fc0bfcc0b44398d9690',9,0);
INSERT INTO "metrics" VALUES('best_roc_auc',1.0,1795711785662,'38e2094881b34fc0bfcc0b44398d9690',9,0);
INSERT INTO "metrics" VALUES('rows_per_second',6.08894501729985336167e+02,1795711785662,'38e2094881b34fc0bfcc0b44398d9690',9,0);
INSERT INTO "metrics" VALUES('train_loss',9.35307570866176080093e-02,1795711785962,'38e2094881b34fc0bfcc0b44398d9690',10,0);
INSERT INTO "metrics" VALUES('roc_auc',1.0,1795711785962,'38e2094881b34fc0bfcc0b44398d9690',10,0);
INSERT INTO "metrics" VALUES('average_precision',1.0,1795711785962,'38e2094881b34fc0bfcc0b44398d9690',10,0);
INSERT INTO "metrics" VALUES('log_loss',6.7970295557763571459e-02,1795711785962,'38e2094881b34fc0bfcc0b44398d9690',10,0);
INSERT INTO "metrics" VALUES('brier',1.37154174705789808769e-02,1795711785962,'38e2094881b34fc0bfcc0b44398d9690',10,0);
INSERT INTO "metrics" VALUES('calibration_error',4.62202699056693463997e-02,1795711785962,'38e2094881b34fc0bfcc0b44398d9690',10,0);
INSERT INTO "metrics" VALUES('accuracy',9.85714285714285765038e-01,1795711785962,'38e2094881b34fc0bfcc0b44398d9690',10,0);
INSERT INTO "metrics" VALUES('best_roc_auc',1.0,1795711785962,'38e2094881b34fc0bfcc0b44398d9690',10,0);
INSERT INTO "metrics" VALUES('rows_per_second',1.09348230809775850502e+03,1795711785962,'38e2094881b34fc0bfcc0b44398d9690',10,0);
INSERT INTO "metrics" VALUES('train_loss',9.18387685503278400345e-02,1795711786235,'38e2094881b34fc0bfcc0b44398d9690',11,0);
INSERT INTO "metrics" VALUES('roc_auc',1.0,1795711786235,'38e2094881b34fc0bfcc0b44398d9690',11,0);
INSERT INTO "metrics" VALUES('average_precision',1.0,1795711786235,'38e2094881b34fc0bfcc0b44398d9690',11,0);
INSERT INTO "metrics" VALUES('log_loss',6.91620296820300156648e-02,1795711786235,'38e2094881b34fc0bfcc0b44398d9690',11,0);
INSERT INTO "metrics" VALUES('brier',1.42151816744034327488e-02,1795711786235,'38e2094881b34fc0bfcc0b44398d9690',11,0);
INSERT INTO "metrics" VALUES('calibration_error',4.46208313107490511795e-02,1795711786235,'38e2094881b34fc0bfcc0b44398d9690',11,0);
INSERT INTO "metrics" VALUES('accuracy',9.85714285714285765038e-01,1795711786235,'38e2094881b34fc0bfcc0b44398d9690',11,0);
INSERT INTO "metrics" VALUES('best_roc_auc',1.0,1795711786235,'38e2094881b34fc0bfcc0b44398d9690',11,0);
INSERT INTO "metrics" VALUES('rows_per_second',1.15074768718707741758e+03,1795711786235,'38e2094881b34fc0bfcc0b44398d9690',11,0);
INSERT INTO "metrics" VALUES('train_loss',7.01566423688616130904e-02,1795711786705,'38e2094881b34fc0bfcc0b44398d9690',12,0);
INSERT INTO "metrics" VALUES('roc_auc',1.0,1795711786705,'38e2094881b34fc0bfcc0b44398d9690',12,0);
INSERT INTO "metrics" VALUES('average_precision',1.0,1795711786705,'38e2094881b34fc0bfcc0b44398d9690',12,0);
INSERT INTO "metrics" VALUES('log_loss',6.94077824937191639742e-02,1795711786705,'38e2094881b34fc0bfcc0b44398d9690',12,0);
INSERT INTO "metrics" VALUES('brier',1.42972317633108612217e-02,1795711786705,'38e2094881b34fc0bfcc0b44398d9690',12,0);
INSERT INTO "metrics" VALUES('calibration_error',4.48737802250044684471e-02,1795711786705,'38e2094881b34fc0bfcc0b44398d9690',12,0);
INSERT INTO "metrics" VALUES('accuracy',9.85714285714285765038e-01,1795711786705,'38e2094881b34fc0bfcc0b44398d9690',12,0);
INSERT INTO "metrics" VALUES('best_roc_auc',1.0,1795711786705,'38e2094881b34fc0bfcc0b44398d9690',12,0);
INSERT INTO "metrics" VALUES('rows_per_second',6.3618347269056891944e+02,1795711786705,'38e2094881b34fc0bfcc0b44398d9690',12,0);
CREATE TABLE "model_definitions" (
	model_definition_id VARCHAR(36) NOT NULL, 
	name VARCHAR(255) NOT NULL, 
	secret_id VARCHAR(36), 
	provider VARCHAR(64) NOT NULL, 
	model_name VARCHAR(256) NOT NULL, 
	created_by VARCHAR(255), 
	created_at BIGINT NOT NULL, 
	last_updated_by VARCHAR(255), 
	last_updated_at BIGINT NOT NULL, 
	workspace VARCHAR(63) DEFAULT 'default' NOT NULL, 
	CONSTRAINT model_definitions_pk PRIMARY KEY (model_definition_id), 
	CONSTRAINT fk_model_definitions_secret_id FOREIGN KEY(secret_id) REFERENCES secrets (secret_id) ON DELETE SET NULL, 
	CONSTRAINT uq_model_definitions_workspace_name UNIQUE (workspace, name)
);
CREATE TABLE "model_version_tags" (
	"key" VARCHAR(250) NOT NULL, 
	value TEXT, 
	name VARCHAR(256) NOT NULL, 
	version INTEGER NOT NULL, 
	workspace VARCHAR(63) DEFAULT 'default' NOT NULL, 
	CONSTRAINT model_version_tag_pk PRIMARY KEY (workspace, "key", name, version), 
	CONSTRAINT fk_model_version_tags_model_versions FOREIGN KEY(workspace, name, version) REFERENCES model_versions (workspace, name, version) ON UPDATE CASCADE
);
INSERT INTO "model_version_tags" VALUES('raymlops.search_run','c51cd0f44ece4ff9bfe4b1c6c146975d','kept',1,'default');
INSERT INTO "model_version_tags" VALUES('raymlops.trial','8cdb2_00000','kept',1,'default');
INSERT INTO "model_version_tags" VALUES('raymlops.trial_run','f3c5886096454fcf820be3ac3c159fa1','kept',1,'default');
INSERT INTO "model_version_tags" VALUES('raymlops.fingerprint','23041e3d13a5a1d1','kept',1,'default');
INSERT INTO "model_version_tags" VALUES('raymlops.commit','unknown','kept',1,'default');
INSERT INTO "model_version_tags" VALUES('raymlops.who','ann','kept',1,'default');
INSERT INTO "model_version_tags" VALUES('raymlops.why','the first','kept',1,'default');
INSERT INTO "model_version_tags" VALUES('raymlops.when','2026-11-26T16:43:59+00:00','kept',1,'default');
INSERT INTO "model_version_tags" VALUES('raymlops.parameters','{}','kept',1,'default');
INSERT INTO "model_version_tags" VALUES('raymlops.parity','{"rows": 51, "difference": 5.960464477539063e-08, "flipped": 0}','kept',1,'default');
INSERT INTO "model_version_tags" VALUES('raymlops.test','{"roc_auc": 0.9498456790123457, "average_precision": 0.956754163000966, "log_loss": 0.6592769993975799, "brier": 0.23314573315747417, "calibration_error": 0.330805498010972, "accuracy": 0.47058823529411764}','kept',1,'default');
INSERT INTO "model_version_tags" VALUES('raymlops.sha256','4b87ac4945a4628e3a2691d1fa722e20ec633bed28e0d3a45272bcad44408c97','kept',1,'default');
INSERT INTO "model_version_tags" VALUES('raymlops.history','4:ccfa61363eb7c1daeaefd5db38edcfd4ac169f15ec087f5fce4dc096d9eaca8d','kept',1,'default');
INSERT INTO "model_version_tags" VALUES('raymlops.manifest','f5520a560fec6406d9c8cb9dbbac6080e45368cf8b35709f3a565b9a65a2d408','kept',1,'default');
INSERT INTO "model_version_tags" VALUES('raymlops.verdict','2a5171098bc30129587b3767230bd4115cd0af6062774376bebef6ad98a818fe','kept',1,'default');
INSERT INTO "model_version_tags" VALUES('raymlops.gate.against','no champion','kept',1,'default');
INSERT INTO "model_version_tags" VALUES('raymlops.gate','passed','kept',1,'default');
INSERT INTO "model_version_tags" VALUES('raymlops.search_run','d5aec94d7777412384d99fbcc74c8961','kept',2,'default');
INSERT INTO "model_version_tags" VALUES('raymlops.trial','ae5b3_00000','kept',2,'default');
INSERT INTO "model_version_tags" VALUES('raymlops.trial_run','211f45f9e92e405b9360e2a202450d08','kept',2,'default');
INSERT INTO "model_version_tags" VALUES('raymlops.fingerprint','23041e3d13a5a1d1','kept',2,'default');
INSERT INTO "model_version_tags" VALUES('raymlops.commit','unknown','kept',2,'default');
INSERT INTO "model_version_tags" VALUES('raymlops.who','ann','kept',2,'default');
INSERT INTO "model_version_tags" VALUES('raymlops.why','the second','kept',2,'default');
INSERT INTO "model_version_tags" VALUES('raymlops.when','2026-11-26T16:44:52+00:00','kept',2,'default');
INSERT INTO "model_version_tags" VALUES('raymlops.parameters','{}','kept',2,'default');
INSERT INTO "model_version_tags" VALUES('raymlops.parity','{"rows": 51, "difference": 5.960464477539063e-08, "flipped": 0}','kept',2,'default');
INSERT INTO "model_version_tags" VALUES('raymlops.test','{"roc_auc": 0.9521604938271605, "average_precision": 0.9565624233580889, "log_loss": 0.6747132282935645, "brier": 0.24082460249015022, "calibration_error": 0.3013058585279128, "accuracy": 0.47058823529411764}','kept',2,'default');
INSERT INTO "model_version_tags" VALUES('raymlops.sha256','5c8d6a504a20d37174f1b67d2170a6d7525e825ff5c0e42de9f6fcd3cb2fc61f','kept',2,'default');
INSERT INTO "model_version_tags" VALUES('raymlops.history','10:7317404c189b3a1ad33774d6c42a3cc11d990258a4a310b485265edf30af9f4e','kept',2,'default');
INSERT INTO "model_version_tags" VALUES('raymlops.manifest','1cbe669aa62d972efe3c16ef727fccc10f7da7282f57783f89996f0e611b9f70','kept',2,'default');
INSERT INTO "model_version_tags" VALUES('raymlops.gate.against','no champion','kept',2,'default');
INSERT INTO "model_version_tags" VALUES('raymlops.gate','passed','kept',2,'default');
INSERT INTO "model_version_tags" VALUES('raymlops.verdict','6828286a52baa5a600c3f3464808e7cfab12f6fd80cd4156284bdaefb6507c37','kept',2,'default');
CREATE TABLE "model_versions" (
	name VARCHAR(256) NOT NULL, 
	version INTEGER NOT NULL, 
	creation_time BIGINT, 
	last_updated_time BIGINT, 
	description VARCHAR(5000), 
	user_id VARCHAR(256), 
	current_stage VARCHAR(20), 
	source VARCHAR(500), 
	run_id VARCHAR(32), 
	status VARCHAR(20), 
	status_message VARCHAR(500), 
	run_link VARCHAR(500), 
	storage_location VARCHAR(500), 
	workspace VARCHAR(63) DEFAULT 'default' NOT NULL, 
	CONSTRAINT model_version_pk PRIMARY KEY (workspace, name, version), 
	CONSTRAINT fk_model_versions_registered_models FOREIGN KEY(workspace, name) REFERENCES registered_models (workspace, name) ON UPDATE CASCADE
);
INSERT INTO "model_versions" VALUES('kept',1,1795711440570,1795711440570,'',NULL,'None','@ROOT@/home/artifacts/kept/c51cd0f44ece4ff9bfe4b1c6c146975d/artifacts/model','c51cd0f44ece4ff9bfe4b1c6c146975d','READY',NULL,NULL,'@ROOT@/home/artifacts/kept/c51cd0f44ece4ff9bfe4b1c6c146975d/artifacts/model','default');
INSERT INTO "model_versions" VALUES('kept',2,1795711492761,1795711492761,'',NULL,'None','@ROOT@/home/artifacts/kept/d5aec94d7777412384d99fbcc74c8961/artifacts/model','d5aec94d7777412384d99fbcc74c8961','READY',NULL,NULL,'@ROOT@/home/artifacts/kept/d5aec94d7777412384d99fbcc74c8961/artifacts/model','default');
CREATE TABLE online_scoring_configs (
	online_scoring_config_id VARCHAR(36) NOT NULL, 
	scorer_id VARCHAR(36) NOT NULL, 
	sample_rate FLOAT NOT NULL, 
	experiment_id INTEGER NOT NULL, 
	filter_string TEXT, 
	CONSTRAINT online_scoring_config_pk PRIMARY KEY (online_scoring_config_id), 
	CONSTRAINT fk_online_scoring_configs_scorer_id FOREIGN KEY(scorer_id) REFERENCES scorers (scorer_id) ON DELETE CASCADE, 
	CONSTRAINT fk_online_scoring_configs_experiment_id FOREIGN KEY(experiment_id) REFERENCES experiments (experiment_id)
);
CREATE TABLE "params" (
	"key" VARCHAR(250) NOT NULL, 
	value VARCHAR(8000) NOT NULL, 
	run_uuid VARCHAR(32) NOT NULL, 
	CONSTRAINT param_pk PRIMARY KEY ("key", run_uuid), 
	FOREIGN KEY(run_uuid) REFERENCES runs (run_uuid)
);
INSERT INTO "params" VALUES('algorithm','random','c51cd0f44ece4ff9bfe4b1c6c146975d');
INSERT INTO "params" VALUES('scheduler','none','c51cd0f44ece4ff9bfe4b1c6c146975d');
INSERT INTO "params" VALUES('trials','1','c51cd0f44ece4ff9bfe4b1c6c146975d');
INSERT INTO "params" VALUES('learner','network','c51cd0f44ece4ff9bfe4b1c6c146975d');
INSERT INTO "params" VALUES('network','mlp','c51cd0f44ece4ff9bfe4b1c6c146975d');
INSERT INTO "params" VALUES('workers','1','c51cd0f44ece4ff9bfe4b1c6c146975d');
INSERT INTO "params" VALUES('epochs','2','c51cd0f44ece4ff9bfe4b1c6c146975d');
INSERT INTO "params" VALUES('rows_train','279','c51cd0f44ece4ff9bfe4b1c6c146975d');
INSERT INTO "params" VALUES('algorithm','random','d5aec94d7777412384d99fbcc74c8961');
INSERT INTO "params" VALUES('scheduler','none','d5aec94d7777412384d99fbcc74c8961');
INSERT INTO "params" VALUES('trials','1','d5aec94d7777412384d99fbcc74c8961');
INSERT INTO "params" VALUES('learner','network','d5aec94d7777412384d99fbcc74c8961');
INSERT INTO "params" VALUES('network','mlp','d5aec94d7777412384d99fbcc74c8961');
INSERT INTO "params" VALUES('workers','1','d5aec94d7777412384d99fbcc74c8961');
INSERT INTO "params" VALUES('epochs','2','d5aec94d7777412384d99fbcc74c8961');
INSERT INTO "params" VALUES('rows_train','279','d5aec94d7777412384d99fbcc74c8961');
INSERT INTO "params" VALUES('algorithm','random','63177caf16ba4d158f8eb63ea3379819');
INSERT INTO "params" VALUES('scheduler','none','63177caf16ba4d158f8eb63ea3379819');
INSERT INTO "params" VALUES('trials','2','63177caf16ba4d158f8eb63ea3379819');
INSERT INTO "params" VALUES('learner','network','63177caf16ba4d158f8eb63ea3379819');
INSERT INTO "params" VALUES('network','mlp','63177caf16ba4d158f8eb63ea3379819');
INSERT INTO "params" VALUES('workers','1','63177caf16ba4d158f8eb63ea3379819');
INSERT INTO "params" VALUES('epochs','12','63177caf16ba4d158f8eb63ea3379819');
INSERT INTO "params" VALUES('rows_train','279','63177caf16ba4d158f8eb63ea3379819');
INSERT INTO "params" VALUES('lr','0.021673631826195795','38e2094881b34fc0bfcc0b44398d9690');
CREATE TABLE "registered_model_aliases" (
	alias VARCHAR(256) NOT NULL, 
	version INTEGER NOT NULL, 
	name VARCHAR(256) NOT NULL, 
	workspace VARCHAR(63) DEFAULT 'default' NOT NULL, 
	CONSTRAINT registered_model_alias_pk PRIMARY KEY (workspace, name, alias), 
	CONSTRAINT fk_registered_model_aliases_registered_models FOREIGN KEY(workspace, name) REFERENCES registered_models (workspace, name) ON DELETE CASCADE ON UPDATE CASCADE
);
INSERT INTO "registered_model_aliases" VALUES('challenger',2,'kept','default');
INSERT INTO "registered_model_aliases" VALUES('champion',2,'kept','default');
CREATE TABLE "registered_model_tags" (
	"key" VARCHAR(250) NOT NULL, 
	value VARCHAR(5000), 
	name VARCHAR(256) NOT NULL, 
	workspace VARCHAR(63) DEFAULT 'default' NOT NULL, 
	CONSTRAINT registered_model_tag_pk PRIMARY KEY (workspace, "key", name), 
	CONSTRAINT fk_registered_model_tags_registered_models FOREIGN KEY(workspace, name) REFERENCES registered_models (workspace, name) ON UPDATE CASCADE
);
INSERT INTO "registered_model_tags" VALUES('raymlops.record','30f5f280eb0e4ab79c8e8fd6dff71581','kept','default');
INSERT INTO "registered_model_tags" VALUES('raymlops.history.000001.afd3f9cf59a01db0','{"action":"register","alias":"","at":"2026-11-26T16:44:01+00:00","before":"","forced":false,"index":1,"manifest":"bd773dd4824d3e038501d16a7346baa57dc5172194d07e9fd70dccf9d235a29f","model":"kept","number":1,"parent":"","signature":{"keyid":"480998794140141d8b91d161867d96bef8c1768cf834142e62dfd341f0ac8af3","sig":"idui+ioVxwrFLu0U2WWPfkRxgDmRqLQeAaitzheMoKJ7GSPoK0c1kkSihiAmYJd9cXrWBro3dvEJwGoI9JvHCQ=="},"verdict":"","version":"1","who":"ann","why":"the first"}','kept','default');
INSERT INTO "registered_model_tags" VALUES('raymlops.history.000002.f25196a9ba8a9d13','{"action":"search","alias":"challenger","at":"2026-11-26T16:44:02+00:00","before":"","forced":false,"index":2,"manifest":"bd773dd4824d3e038501d16a7346baa57dc5172194d07e9fd70dccf9d235a29f","model":"kept","number":2,"parent":"afd3f9cf59a01db0dad39df23226c06019de2cc1dcb2091fca3b652fe35f5a58","signature":{"keyid":"480998794140141d8b91d161867d96bef8c1768cf834142e62dfd341f0ac8af3","sig":"HvWB79YIvXL0ZF6I72pt0ceVeyTrbOF+DZQ+R5xZroQaUjddmd7y7StgcLfT35/AJDYNtkucsA7otbIdzqU4Dg=="},"verdict":"","version":"1","who":"ann","why":"the first"}','kept','default');
INSERT INTO "registered_model_tags" VALUES('raymlops.history.000003.88f976d3010e86c7','{"action":"gate","alias":"","at":"2026-11-26T16:44:05+00:00","before":"","forced":false,"index":3,"manifest":"f5520a560fec6406d9c8cb9dbbac6080e45368cf8b35709f3a565b9a65a2d408","model":"kept","number":3,"parent":"f25196a9ba8a9d133f23c8a744adfa42213661ae1c19839313f163ebf493b5f0","signature":{"keyid":"480998794140141d8b91d161867d96bef8c1768cf834142e62dfd341f0ac8af3","sig":"zbeWC2C3m2ebnWtdXsc25Timl2Eb0rzN4zJffnAOyaBAxfji/vqP/AboUdP6rDQ0snZ2B3E8984qex5ensQ0Bw=="},"verdict":"2a5171098bc30129587b3767230bd4115cd0af6062774376bebef6ad98a818fe","version":"1","who":"ann","why":"passed"}','kept','default');
INSERT INTO "registered_model_tags" VALUES('raymlops.history.000004.ccfa61363eb7c1da','{"action":"search","alias":"champion","at":"2026-11-26T16:44:07+00:00","before":"","forced":false,"index":4,"manifest":"f5520a560fec6406d9c8cb9dbbac6080e45368cf8b35709f3a565b9a65a2d408","model":"kept","number":4,"parent":"88f976d3010e86c7073200684bccbcc6808932907ad1bd49f646cd9c1bb1fd12","signature":{"keyid":"480998794140141d8b91d161867d96bef8c1768cf834142e62dfd341f0ac8af3","sig":"MQOHIkH1Hzq3FqnO6VbAA/4lj6YErZNQ+2R5gTq0D6vL+5qI5JwuJCm/PdHvGDinHZikfM1wOIww2jzbOzr+DQ=="},"verdict":"2a5171098bc30129587b3767230bd4115cd0af6062774376bebef6ad98a818fe","version":"1","who":"ann","why":"the gate passed; the first"}','kept','default');
INSERT INTO "registered_model_tags" VALUES('raymlops.history.000005.90c81c3a0563be0f','{"action":"register","alias":"","at":"2026-11-26T16:44:52+00:00","before":"","forced":false,"index":5,"manifest":"39a01d5022e74d1e4a31ee4496307eea24f37e011828a440dc51bd5e7a97d5a8","model":"kept","number":5,"parent":"ccfa61363eb7c1daeaefd5db38edcfd4ac169f15ec087f5fce4dc096d9eaca8d","signature":{"keyid":"480998794140141d8b91d161867d96bef8c1768cf834142e62dfd341f0ac8af3","sig":"7F/pTAf1djhOWsAg3Wnd3rSeWImxH5aXTaUDMIcyysi9C7twAo6Tg/2oJKwOZnwT+II/FPDARWpoE534t3SoBA=="},"verdict":"","version":"2","who":"ann","why":"the second"}','kept','default');
INSERT INTO "registered_model_tags" VALUES('raymlops.history.000006.f5f3a5e69b998ae3','{"action":"search","alias":"challenger","at":"2026-11-26T16:44:53+00:00","before":"1","forced":false,"index":6,"manifest":"39a01d5022e74d1e4a31ee4496307eea24f37e011828a440dc51bd5e7a97d5a8","model":"kept","number":6,"parent":"90c81c3a0563be0f2f2870370e3cdb4230937e12e668e3b898aee38f7d06d89e","signature":{"keyid":"480998794140141d8b91d161867d96bef8c1768cf834142e62dfd341f0ac8af3","sig":"aj7bVPU8uulNWlEu8AGQlUXi2UoK6VbMagYKndPv95TDq6EkSneLEFCbrAZCRa5yA4VtOEHVnQ8xtHzvTrPHDA=="},"verdict":"","version":"2","who":"ann","why":"the second"}','kept','default');
INSERT INTO "registered_model_tags" VALUES('raymlops.history.000007.c7acdf248446cdb5','{"action":"gate","alias":"","at":"2026-11-26T16:44:55+00:00","before":"","forced":false,"index":7,"manifest":"1e853f3b7fd49df4226f8139e134808f986336add7d944f60a19e18aebf5f228","model":"kept","number":7,"parent":"f5f3a5e69b998ae3840b4cac320032467c1f4ee3d035770e4e611530ef4b5b0a","signature":{"keyid":"480998794140141d8b91d161867d96bef8c1768cf834142e62dfd341f0ac8af3","sig":"fUOMkznUgERXhr0vxmdShDOGS528m0MKvhnUym+t8tWzcMzJqUUWIPa0ydgIWtglizSNu5+n8Q5r1N5iQpLVDQ=="},"verdict":"df3f2ed2b10d569316352c019c3c1037b1738d5d940d3585b52443960c318e3e","version":"2","who":"ann","why":"passed"}','kept','default');
INSERT INTO "registered_model_tags" VALUES('raymlops.history.000008.1449b16377846487','{"action":"search","alias":"champion","at":"2026-11-26T16:44:55+00:00","before":"1","forced":false,"index":8,"manifest":"1e853f3b7fd49df4226f8139e134808f986336add7d944f60a19e18aebf5f228","model":"kept","number":8,"parent":"c7acdf248446cdb5b614a231640c78e9a79e220360c0745989abad02910ea041","signature":{"keyid":"480998794140141d8b91d161867d96bef8c1768cf834142e62dfd341f0ac8af3","sig":"DCjBh44bob8ib+4tMK+Ywy9fsJ9mULGcFdkgiqT62XJUcDOdIC3YiGC6RRKcFWlrPP1RlJwnfjHp8cKgyTDBCg=="},"verdict":"df3f2ed2b10d569316352c019c3c1037b1738d5d940d3585b52443960c318e3e","version":"2","who":"ann","why":"the gate passed; the second"}','kept','default');
INSERT INTO "registered_model_tags" VALUES('raymlops.history.000009.b34be2cb17a8c947','{"action":"gate","alias":"","at":"2026-11-26T16:45:26+00:00","before":"","forced":false,"index":9,"manifest":"1cbe669aa62d972efe3c16ef727fccc10f7da7282f57783f89996f0e611b9f70","model":"kept","number":9,"parent":"1449b1637784648736884e295e408ec82a722b36c4468a360f697c64ea361731","signature":{"keyid":"480998794140141d8b91d161867d96bef8c1768cf834142e62dfd341f0ac8af3","sig":"rsleyWPoyg+b/mc/arslnI+eGGb52asPNSVCsned8nuvrtksflZOFiiYQMaRYPHDNk9yqyvtV7N3s5T2SRtJBQ=="},"verdict":"6828286a52baa5a600c3f3464808e7cfab12f6fd80cd4156284bdaefb6507c37","version":"2","who":"ann","why":"passed"}','kept','default');
INSERT INTO "registered_model_tags" VALUES('raymlops.lease.000000000010.32d8730eca98','','kept','default');
INSERT INTO "registered_model_tags" VALUES('raymlops.history.000010.7317404c189b3a1a','{"action":"promote","alias":"champion","at":"2026-11-26T16:45:48+00:00","before":"2","forced":false,"index":10,"manifest":"1cbe669aa62d972efe3c16ef727fccc10f7da7282f57783f89996f0e611b9f70","model":"kept","number":10,"parent":"b34be2cb17a8c9471d9001b5cddf0df777b2bbd3b01565fd537fdfdc9ffa05eb","signature":{"keyid":"480998794140141d8b91d161867d96bef8c1768cf834142e62dfd341f0ac8af3","sig":"R3qOqCJ87qDRnyyoHJk2DAPdTaZj6e182m1O+SE7GzbZ/zADqnVxT9RNTVlewKkbgGdAFaPI8kWPjs/DMFHXCg=="},"verdict":"6828286a52baa5a600c3f3464808e7cfab12f6fd80cd4156284bdaefb6507c37","version":"2","who":"ann","why":"to go back later"}','kept','default');
CREATE TABLE "registered_models" (
	name VARCHAR(256) NOT NULL, 
	creation_time BIGINT, 
	last_updated_time BIGINT, 
	description VARCHAR(5000), 
	workspace VARCHAR(63) DEFAULT 'default' NOT NULL, 
	CONSTRAINT registered_model_pk PRIMARY KEY (workspace, name)
);
INSERT INTO "registered_models" VALUES('kept',1795711440528,1795711492761,NULL,'default');
CREATE TABLE review_queue_items (
	queue_id VARCHAR(36) NOT NULL, 
	item_type VARCHAR(16) NOT NULL, 
	item_id VARCHAR(50) NOT NULL, 
	status VARCHAR(16) NOT NULL, 
	completed_by VARCHAR(250), 
	completed_time_ms BIGINT, 
	creation_time_ms BIGINT NOT NULL, 
	last_update_time_ms BIGINT NOT NULL, 
	CONSTRAINT review_queue_items_pk PRIMARY KEY (queue_id, item_id), 
	CONSTRAINT fk_review_queue_items_queue_id FOREIGN KEY(queue_id) REFERENCES review_queues (queue_id) ON DELETE CASCADE
);
CREATE TABLE review_queue_label_schemas (
	queue_id VARCHAR(36) NOT NULL, 
	schema_id VARCHAR(36) NOT NULL, 
	CONSTRAINT review_queue_label_schemas_pk PRIMARY KEY (queue_id, schema_id), 
	CONSTRAINT fk_review_queue_label_schemas_queue_id FOREIGN KEY(queue_id) REFERENCES review_queues (queue_id) ON DELETE CASCADE
);
CREATE TABLE review_queue_users (
	queue_id VARCHAR(36) NOT NULL, 
	user_id VARCHAR(250) NOT NULL, 
	CONSTRAINT review_queue_users_pk PRIMARY KEY (queue_id, user_id), 
	CONSTRAINT fk_review_queue_users_queue_id FOREIGN KEY(queue_id) REFERENCES review_queues (queue_id) ON DELETE CASCADE
);
CREATE TABLE review_queues (
	queue_id VARCHAR(36) NOT NULL, 
	experiment_id INTEGER NOT NULL, 
	name VARCHAR(250) NOT NULL, 
	queue_type VARCHAR(16) NOT NULL, 
	created_by VARCHAR(255), 
	creation_time_ms BIGINT NOT NULL, 
	last_update_time_ms BIGINT NOT NULL, 
	name_key VARCHAR(250) NOT NULL, 
	CONSTRAINT review_queues_pk PRIMARY KEY (queue_id), 
	CONSTRAINT fk_review_queues_experiment_id FOREIGN KEY(experiment_id) REFERENCES experiments (experiment_id) ON DELETE CASCADE, 
	CONSTRAINT uq_review_queues_experiment_name_key UNIQUE (experiment_id, name_key)
);
CREATE TABLE "runs" (
	run_uuid VARCHAR(32) NOT NULL, 
	name VARCHAR(250), 
	source_type VARCHAR(20), 
	source_name VARCHAR(500), 
	entry_point_name VARCHAR(50), 
	user_id VARCHAR(256), 
	status VARCHAR(9), 
	start_time BIGINT, 
	end_time BIGINT, 
	source_version VARCHAR(50), 
	lifecycle_stage VARCHAR(20), 
	artifact_uri VARCHAR(200), 
	experiment_id INTEGER, deleted_time BIGINT, 
	CONSTRAINT run_pk PRIMARY KEY (run_uuid), 
	CONSTRAINT runs_lifecycle_stage CHECK (lifecycle_stage IN ('active', 'deleted')), 
	CONSTRAINT source_type CHECK (source_type IN ('NOTEBOOK', 'JOB', 'LOCAL', 'UNKNOWN', 'PROJECT')), 
	FOREIGN KEY(experiment_id) REFERENCES experiments (experiment_id), 
	CHECK (status IN ('SCHEDULED', 'FAILED', 'FINISHED', 'RUNNING', 'KILLED'))
);
INSERT INTO "runs" VALUES('c51cd0f44ece4ff9bfe4b1c6c146975d','kept-20261126-164346','UNKNOWN','','','ann','FINISHED',1795711426943,1795711441612,'','active','@ROOT@/home/artifacts/kept/c51cd0f44ece4ff9bfe4b1c6c146975d/artifacts',1,NULL);
INSERT INTO "runs" VALUES('f3c5886096454fcf820be3ac3c159fa1','trial-8cdb2_00000','UNKNOWN','','','ann','FINISHED',1795711432244,1795711434217,'','active','@ROOT@/home/artifacts/kept/f3c5886096454fcf820be3ac3c159fa1/artifacts',1,NULL);
INSERT INTO "runs" VALUES('30f5f280eb0e4ab79c8e8fd6dff71581','record of kept','UNKNOWN','','','unknown','FINISHED',1795711441069,1795711441105,'','active','@ROOT@/home/artifacts/raymlops-records/30f5f280eb0e4ab79c8e8fd6dff71581/artifacts',2,NULL);
INSERT INTO "runs" VALUES('d5aec94d7777412384d99fbcc74c8961','kept-20261126-164443','UNKNOWN','','','ann','FINISHED',1795711483141,1795711493034,'','active','@ROOT@/home/artifacts/kept/d5aec94d7777412384d99fbcc74c8961/artifacts',1,NULL);
INSERT INTO "runs" VALUES('211f45f9e92e405b9360e2a202450d08','trial-ae5b3_00000','UNKNOWN','','','ann','FINISHED',1795711487337,1795711488631,'','active','@ROOT@/home/artifacts/kept/211f45f9e92e405b9360e2a202450d08/artifacts',1,NULL);
INSERT INTO "runs" VALUES('63177caf16ba4d158f8eb63ea3379819','cut-off','UNKNOWN','','','ann','RUNNING',1795711768272,NULL,'','active','@ROOT@/home/artifacts/cut/63177caf16ba4d158f8eb63ea3379819/artifacts',3,NULL);
INSERT INTO "runs" VALUES('38e2094881b34fc0bfcc0b44398d9690','trial-58753_00000','UNKNOWN','','','ann','RUNNING',1795711779998,NULL,'','active','@ROOT@/home/artifacts/cut/38e2094881b34fc0bfcc0b44398d9690/artifacts',3,NULL);
CREATE TABLE scheduler_leases (
	lease_key VARCHAR(255) NOT NULL, 
	acquired_at BIGINT NOT NULL, 
	ttl_seconds INTEGER NOT NULL, 
	CONSTRAINT scheduler_leases_pk PRIMARY KEY (lease_key)
);
CREATE TABLE scorer_versions (
	scorer_id VARCHAR(36) NOT NULL, 
	scorer_version INTEGER NOT NULL, 
	serialized_scorer TEXT NOT NULL, 
	creation_time BIGINT, 
	CONSTRAINT scorer_version_pk PRIMARY KEY (scorer_id, scorer_version), 
	CONSTRAINT fk_scorer_versions_scorer_id FOREIGN KEY(scorer_id) REFERENCES scorers (scorer_id) ON DELETE CASCADE
);
CREATE TABLE scorers (
	experiment_id INTEGER NOT NULL, 
	scorer_name VARCHAR(256) NOT NULL, 
	scorer_id VARCHAR(36) NOT NULL, 
	CONSTRAINT scorer_pk PRIMARY KEY (scorer_id), 
	CONSTRAINT fk_scorers_experiment_id FOREIGN KEY(experiment_id) REFERENCES experiments (experiment_id) ON DELETE CASCADE
);
CREATE TABLE "secrets" (
	secret_id VARCHAR(36) NOT NULL, 
	secret_name VARCHAR(255) NOT NULL, 
	encrypted_value BLOB NOT NULL, 
	wrapped_dek BLOB NOT NULL, 
	kek_version INTEGER NOT NULL, 
	masked_value VARCHAR(500) NOT NULL, 
	provider VARCHAR(64), 
	auth_config TEXT, 
	description TEXT, 
	created_by VARCHAR(255), 
	created_at BIGINT NOT NULL, 
	last_updated_by VARCHAR(255), 
	last_updated_at BIGINT NOT NULL, 
	workspace VARCHAR(63) DEFAULT 'default' NOT NULL, 
	CONSTRAINT secrets_pk PRIMARY KEY (secret_id), 
	CONSTRAINT uq_secrets_workspace_secret_name UNIQUE (workspace, secret_name)
);
CREATE TABLE span_metrics (
	trace_id VARCHAR(50) NOT NULL, 
	span_id VARCHAR(50) NOT NULL, 
	"key" VARCHAR(250) NOT NULL, 
	value FLOAT, 
	CONSTRAINT span_metrics_pk PRIMARY KEY (trace_id, span_id, "key"), 
	CONSTRAINT fk_span_metrics_span FOREIGN KEY(trace_id, span_id) REFERENCES spans (trace_id, span_id) ON DELETE CASCADE
);
CREATE TABLE "spans" (
	trace_id VARCHAR(50) NOT NULL, 
	experiment_id INTEGER NOT NULL, 
	span_id VARCHAR(50) NOT NULL, 
	parent_span_id VARCHAR(50), 
	name TEXT, 
	type VARCHAR(500), 
	status VARCHAR(50) NOT NULL, 
	start_time_unix_nano BIGINT NOT NULL, 
	end_time_unix_nano BIGINT, 
	duration_ns BIGINT GENERATED ALWAYS AS (end_time_unix_nano - start_time_unix_nano) STORED, 
	content TEXT NOT NULL, 
	input_cost FLOAT, 
	output_cost FLOAT, 
	total_cost FLOAT, 
	model_name VARCHAR(500), 
	model_provider VARCHAR(500), 
	CONSTRAINT spans_pk PRIMARY KEY (trace_id, span_id), 
	CONSTRAINT fk_spans_experiment_id FOREIGN KEY(experiment_id) REFERENCES experiments (experiment_id), 
	CONSTRAINT fk_spans_trace_id FOREIGN KEY(trace_id) REFERENCES trace_info (request_id) ON DELETE CASCADE
);
CREATE TABLE sql_assessment_daily_rollups (
	id INTEGER NOT NULL, 
	experiment_id INTEGER NOT NULL, 
	rollup_day DATE NOT NULL, 
	metric_name VARCHAR(250) NOT NULL, 
	grouping_set VARCHAR(50) NOT NULL, 
	sample_count BIGINT NOT NULL, 
	sum_value FLOAT, 
	min_value FLOAT, 
	max_value FLOAT, 
	CONSTRAINT sql_assessment_daily_rollups_pk PRIMARY KEY (id)
);
CREATE TABLE sql_span_cost_daily_rollups (
	id INTEGER NOT NULL, 
	experiment_id INTEGER NOT NULL, 
	rollup_day DATE NOT NULL, 
	metric_name VARCHAR(250) NOT NULL, 
	grouping_set VARCHAR(50) NOT NULL, 
	model_name VARCHAR(500), 
	model_provider VARCHAR(500), 
	sample_count BIGINT NOT NULL, 
	sum_value FLOAT, 
	min_value FLOAT, 
	max_value FLOAT, 
	CONSTRAINT sql_span_cost_daily_rollups_pk PRIMARY KEY (id)
);
CREATE TABLE sql_trace_metric_daily_rollups (
	id INTEGER NOT NULL, 
	experiment_id INTEGER NOT NULL, 
	rollup_day DATE NOT NULL, 
	metric_name VARCHAR(250) NOT NULL, 
	grouping_set VARCHAR(50) NOT NULL, 
	trace_status VARCHAR(50), 
	sample_count BIGINT NOT NULL, 
	sum_value FLOAT, 
	min_value FLOAT, 
	max_value FLOAT, 
	p50_value FLOAT, 
	p90_value FLOAT, 
	p99_value FLOAT, 
	CONSTRAINT sql_trace_metric_daily_rollups_pk PRIMARY KEY (id)
);
CREATE TABLE sql_trace_rollup_rebuild_queue (
	experiment_id INTEGER NOT NULL, 
	rollup_day DATE NOT NULL, 
	rollup_family VARCHAR(50) NOT NULL, 
	CONSTRAINT sql_trace_rollup_rebuild_queue_pk PRIMARY KEY (experiment_id, rollup_day, rollup_family)
);
CREATE TABLE "tags" (
	"key" VARCHAR(250) NOT NULL, 
	value VARCHAR(8000), 
	run_uuid VARCHAR(32) NOT NULL, 
	CONSTRAINT tag_pk PRIMARY KEY ("key", run_uuid), 
	FOREIGN KEY(run_uuid) REFERENCES runs (run_uuid)
);
INSERT INTO "tags" VALUES('raymlops.search','kept-20261126-164346','c51cd0f44ece4ff9bfe4b1c6c146975d');
INSERT INTO "tags" VALUES('mlflow.runName','kept-20261126-164346','c51cd0f44ece4ff9bfe4b1c6c146975d');
INSERT INTO "tags" VALUES('raymlops.fingerprint','23041e3d13a5a1d1','c51cd0f44ece4ff9bfe4b1c6c146975d');
INSERT INTO "tags" VALUES('raymlops.why','the first','c51cd0f44ece4ff9bfe4b1c6c146975d');
INSERT INTO "tags" VALUES('raymlops.commit','unknown','c51cd0f44ece4ff9bfe4b1c6c146975d');
INSERT INTO "tags" VALUES('mlflow.user','ann','c51cd0f44ece4ff9bfe4b1c6c146975d');
INSERT INTO "tags" VALUES('mlflow.source.git.commit','unknown','c51cd0f44ece4ff9bfe4b1c6c146975d');
INSERT INTO "tags" VALUES('mlflow.note.content','','c51cd0f44ece4ff9bfe4b1c6c146975d');
INSERT INTO "tags" VALUES('raymlops.fingerprint','23041e3d13a5a1d1','f3c5886096454fcf820be3ac3c159fa1');
INSERT INTO "tags" VALUES('raymlops.commit','unknown','f3c5886096454fcf820be3ac3c159fa1');
INSERT INTO "tags" VALUES('mlflow.user','ann','f3c5886096454fcf820be3ac3c159fa1');
INSERT INTO "tags" VALUES('raymlops.trial','c51cd0f44ece4ff9bfe4b1c6c146975d/8cdb2_00000','f3c5886096454fcf820be3ac3c159fa1');
INSERT INTO "tags" VALUES('mlflow.parentRunId','c51cd0f44ece4ff9bfe4b1c6c146975d','f3c5886096454fcf820be3ac3c159fa1');
INSERT INTO "tags" VALUES('mlflow.runName','trial-8cdb2_00000','f3c5886096454fcf820be3ac3c159fa1');
INSERT INTO "tags" VALUES('raymlops.seconds','2.0','f3c5886096454fcf820be3ac3c159fa1');
INSERT INTO "tags" VALUES('raymlops.checkpoint','@ROOT@/home/storage/kept-20261126-164346/trial-00000_0_2026-11-26_16-43-47/checkpoint_000001','f3c5886096454fcf820be3ac3c159fa1');
INSERT INTO "tags" VALUES('raymlops.record','kept','30f5f280eb0e4ab79c8e8fd6dff71581');
INSERT INTO "tags" VALUES('mlflow.runName','record of kept','30f5f280eb0e4ab79c8e8fd6dff71581');
INSERT INTO "tags" VALUES('raymlops.best_trial','8cdb2_00000','c51cd0f44ece4ff9bfe4b1c6c146975d');
INSERT INTO "tags" VALUES('raymlops.search','kept-20261126-164443','d5aec94d7777412384d99fbcc74c8961');
INSERT INTO "tags" VALUES('mlflow.runName','kept-20261126-164443','d5aec94d7777412384d99fbcc74c8961');
INSERT INTO "tags" VALUES('raymlops.fingerprint','23041e3d13a5a1d1','d5aec94d7777412384d99fbcc74c8961');
INSERT INTO "tags" VALUES('raymlops.why','the second','d5aec94d7777412384d99fbcc74c8961');
INSERT INTO "tags" VALUES('raymlops.commit','unknown','d5aec94d7777412384d99fbcc74c8961');
INSERT INTO "tags" VALUES('mlflow.user','ann','d5aec94d7777412384d99fbcc74c8961');
INSERT INTO "tags" VALUES('mlflow.source.git.commit','unknown','d5aec94d7777412384d99fbcc74c8961');
INSERT INTO "tags" VALUES('mlflow.note.content','','d5aec94d7777412384d99fbcc74c8961');
INSERT INTO "tags" VALUES('raymlops.fingerprint','23041e3d13a5a1d1','211f45f9e92e405b9360e2a202450d08');
INSERT INTO "tags" VALUES('raymlops.commit','unknown','211f45f9e92e405b9360e2a202450d08');
INSERT INTO "tags" VALUES('mlflow.user','ann','211f45f9e92e405b9360e2a202450d08');
INSERT INTO "tags" VALUES('raymlops.trial','d5aec94d7777412384d99fbcc74c8961/ae5b3_00000','211f45f9e92e405b9360e2a202450d08');
INSERT INTO "tags" VALUES('mlflow.parentRunId','d5aec94d7777412384d99fbcc74c8961','211f45f9e92e405b9360e2a202450d08');
INSERT INTO "tags" VALUES('mlflow.runName','trial-ae5b3_00000','211f45f9e92e405b9360e2a202450d08');
INSERT INTO "tags" VALUES('raymlops.seconds','1.3','211f45f9e92e405b9360e2a202450d08');
INSERT INTO "tags" VALUES('raymlops.checkpoint','@ROOT@/home/storage/kept-20261126-164443/trial-00000_0_2026-11-26_16-44-43/checkpoint_000001','211f45f9e92e405b9360e2a202450d08');
INSERT INTO "tags" VALUES('raymlops.best_trial','ae5b3_00000','d5aec94d7777412384d99fbcc74c8961');
INSERT INTO "tags" VALUES('raymlops.search','cut-off','63177caf16ba4d158f8eb63ea3379819');
INSERT INTO "tags" VALUES('mlflow.runName','cut-off','63177caf16ba4d158f8eb63ea3379819');
INSERT INTO "tags" VALUES('raymlops.fingerprint','23041e3d13a5a1d1','63177caf16ba4d158f8eb63ea3379819');
INSERT INTO "tags" VALUES('raymlops.why','','63177caf16ba4d158f8eb63ea3379819');
INSERT INTO "tags" VALUES('raymlops.commit','unknown','63177caf16ba4d158f8eb63ea3379819');
INSERT INTO "tags" VALUES('mlflow.user','ann','63177caf16ba4d158f8eb63ea3379819');
INSERT INTO "tags" VALUES('mlflow.source.git.commit','unknown','63177caf16ba4d158f8eb63ea3379819');
INSERT INTO "tags" VALUES('mlflow.note.content','','63177caf16ba4d158f8eb63ea3379819');
INSERT INTO "tags" VALUES('raymlops.fingerprint','23041e3d13a5a1d1','38e2094881b34fc0bfcc0b44398d9690');
INSERT INTO "tags" VALUES('raymlops.commit','unknown','38e2094881b34fc0bfcc0b44398d9690');
INSERT INTO "tags" VALUES('mlflow.user','ann','38e2094881b34fc0bfcc0b44398d9690');
INSERT INTO "tags" VALUES('raymlops.trial','63177caf16ba4d158f8eb63ea3379819/58753_00000','38e2094881b34fc0bfcc0b44398d9690');
INSERT INTO "tags" VALUES('mlflow.parentRunId','63177caf16ba4d158f8eb63ea3379819','38e2094881b34fc0bfcc0b44398d9690');
INSERT INTO "tags" VALUES('mlflow.runName','trial-58753_00000','38e2094881b34fc0bfcc0b44398d9690');
CREATE TABLE "trace_info" (
	request_id VARCHAR(50) NOT NULL, 
	experiment_id INTEGER NOT NULL, 
	timestamp_ms BIGINT NOT NULL, 
	execution_time_ms BIGINT, 
	status VARCHAR(50) NOT NULL, 
	client_request_id VARCHAR(50), 
	request_preview VARCHAR(1000), 
	response_preview VARCHAR(1000), 
	db_payload_generation INTEGER DEFAULT '0' NOT NULL, trace_name VARCHAR(4096), session_id VARCHAR(250), input_tokens BIGINT, output_tokens BIGINT, total_tokens BIGINT, cache_read_input_tokens BIGINT, cache_creation_input_tokens BIGINT, cache_creation_input_tokens_above_1hr BIGINT, input_cost FLOAT, output_cost FLOAT, total_cost FLOAT, 
	CONSTRAINT trace_info_pk PRIMARY KEY (request_id), 
	CONSTRAINT fk_trace_info_experiment_id FOREIGN KEY(experiment_id) REFERENCES experiments (experiment_id) ON DELETE CASCADE
);
CREATE TABLE trace_metrics (
	request_id VARCHAR(50) NOT NULL, 
	"key" VARCHAR(250) NOT NULL, 
	value FLOAT, 
	CONSTRAINT trace_metrics_pk PRIMARY KEY (request_id, "key"), 
	CONSTRAINT fk_trace_metrics_request_id FOREIGN KEY(request_id) REFERENCES trace_info (request_id) ON DELETE CASCADE
);
CREATE TABLE "trace_request_metadata" (
	"key" VARCHAR(250) NOT NULL, 
	value VARCHAR(8000), 
	request_id VARCHAR(50) NOT NULL, 
	CONSTRAINT trace_request_metadata_pk PRIMARY KEY ("key", request_id), 
	CONSTRAINT fk_trace_request_metadata_request_id FOREIGN KEY(request_id) REFERENCES trace_info (request_id) ON DELETE CASCADE
);
CREATE TABLE "trace_tags" (
	"key" VARCHAR(250) NOT NULL, 
	value VARCHAR(8000), 
	request_id VARCHAR(50) NOT NULL, 
	CONSTRAINT trace_tag_pk PRIMARY KEY ("key", request_id), 
	CONSTRAINT fk_trace_tags_request_id FOREIGN KEY(request_id) REFERENCES trace_info (request_id) ON DELETE CASCADE
);
CREATE TABLE webhook_events (
	webhook_id VARCHAR(256) NOT NULL, 
	entity VARCHAR(50) NOT NULL, 
	action VARCHAR(50) NOT NULL, 
	CONSTRAINT webhook_event_pk PRIMARY KEY (webhook_id, entity, action), 
	FOREIGN KEY(webhook_id) REFERENCES webhooks (webhook_id) ON DELETE cascade
);
CREATE TABLE "webhooks" (
	webhook_id VARCHAR(256) NOT NULL, 
	name VARCHAR(256) NOT NULL, 
	description VARCHAR(1000), 
	url VARCHAR(500) NOT NULL, 
	status VARCHAR(20) DEFAULT 'ACTIVE' NOT NULL, 
	secret VARCHAR(1000), 
	creation_timestamp BIGINT, 
	last_updated_timestamp BIGINT, 
	deleted_timestamp BIGINT, 
	workspace VARCHAR(63) DEFAULT 'default' NOT NULL, 
	CONSTRAINT webhook_pk PRIMARY KEY (webhook_id)
);
CREATE TABLE workspaces (
	name VARCHAR(63) NOT NULL, 
	description TEXT, 
	default_artifact_root TEXT, trace_archival_location TEXT, trace_archival_retention VARCHAR(32), 
	CONSTRAINT workspaces_pk PRIMARY KEY (name)
);
INSERT INTO "workspaces" VALUES('default','Default workspace for legacy resources',NULL,NULL,NULL);
CREATE INDEX index_metrics_run_uuid ON metrics (run_uuid);
CREATE INDEX index_latest_metrics_run_uuid ON latest_metrics (run_uuid);
CREATE INDEX index_inputs_input_uuid ON inputs (input_uuid);
CREATE INDEX index_inputs_destination_type_destination_id_source_type ON inputs (destination_type, destination_id, source_type);
CREATE INDEX index_params_run_uuid ON params (run_uuid);
CREATE INDEX index_trace_tags_request_id ON trace_tags (request_id);
CREATE INDEX index_trace_request_metadata_request_id ON trace_request_metadata (request_id);
CREATE INDEX index_tags_run_uuid ON tags (run_uuid);
CREATE INDEX index_datasets_dataset_uuid ON datasets (dataset_uuid);
CREATE INDEX index_datasets_experiment_id_dataset_source_type ON datasets (experiment_id, dataset_source_type);
CREATE INDEX index_logged_model_metrics_model_id ON logged_model_metrics (model_id);
CREATE INDEX index_entity_associations_association_id ON entity_associations (association_id);
CREATE INDEX index_entity_associations_reverse_lookup ON entity_associations (destination_type, destination_id, source_type, source_id);
CREATE INDEX idx_webhook_events_entity ON webhook_events (entity);
CREATE INDEX idx_webhook_events_action ON webhook_events (action);
CREATE INDEX idx_webhook_events_entity_action ON webhook_events (entity, action);
CREATE UNIQUE INDEX index_scorers_experiment_id_scorer_name ON scorers (experiment_id, scorer_name);
CREATE INDEX index_scorer_versions_scorer_id ON scorer_versions (scorer_id);
CREATE INDEX index_evaluation_dataset_tags_dataset_id ON evaluation_dataset_tags (dataset_id);
CREATE INDEX index_evaluation_dataset_records_dataset_id ON evaluation_dataset_records (dataset_id);
CREATE INDEX index_endpoint_model_mappings_endpoint_id ON endpoint_model_mappings (endpoint_id);
CREATE INDEX index_endpoint_model_mappings_model_definition_id ON endpoint_model_mappings (model_definition_id);
CREATE INDEX index_endpoint_tags_endpoint_id ON endpoint_tags (endpoint_id);
CREATE INDEX index_trace_metrics_request_id ON trace_metrics (request_id);
CREATE UNIQUE INDEX unique_endpoint_model_linkage_mapping ON endpoint_model_mappings (endpoint_id, model_definition_id, linkage_type);
CREATE INDEX index_span_metrics_trace_id_span_id ON span_metrics (trace_id, span_id);
CREATE INDEX index_evaluation_datasets_name ON evaluation_datasets (name);
CREATE INDEX index_evaluation_datasets_created_time ON evaluation_datasets (created_time);
CREATE INDEX idx_webhooks_name ON webhooks (name);
CREATE INDEX idx_webhooks_status ON webhooks (status);
CREATE TRIGGER prevent_secrets_aad_mutation
BEFORE UPDATE ON secrets
FOR EACH ROW
WHEN OLD.secret_id != NEW.secret_id OR OLD.secret_name != NEW.secret_name
BEGIN
    SELECT RAISE(ABORT, 'secret_id and secret_name are immutable (used as AAD in encryption)');
END;
CREATE INDEX index_model_definitions_secret_id ON model_definitions (secret_id);
CREATE INDEX index_model_definitions_provider ON model_definitions (provider);
CREATE INDEX index_jobs_name_status_creation_time ON jobs (job_name, workspace, status, creation_time);
CREATE INDEX idx_experiments_workspace ON experiments (workspace);
CREATE INDEX idx_registered_models_workspace ON registered_models (workspace);
CREATE INDEX idx_experiments_workspace_creation_time ON experiments (workspace, creation_time);
CREATE INDEX idx_evaluation_datasets_workspace ON evaluation_datasets (workspace);
CREATE INDEX idx_webhooks_workspace ON webhooks (workspace);
CREATE INDEX idx_secrets_workspace ON secrets (workspace);
CREATE INDEX idx_endpoints_workspace ON endpoints (workspace);
CREATE INDEX idx_model_definitions_workspace ON model_definitions (workspace);
CREATE INDEX idx_budget_policies_workspace ON budget_policies (workspace);
CREATE INDEX index_issues_experiment_id ON issues (experiment_id);
CREATE INDEX index_issues_source_run_id ON issues (source_run_id);
CREATE INDEX index_issues_status ON issues (status);
CREATE INDEX index_metrics_run_uuid_key_step ON metrics (run_uuid, "key", step);
CREATE INDEX idx_guardrails_workspace ON guardrails (workspace);
CREATE INDEX idx_guardrails_scorer ON guardrails (scorer_id, scorer_version);
CREATE INDEX idx_guardrail_configs_endpoint_id ON guardrail_configs (endpoint_id);
CREATE INDEX idx_guardrail_configs_guardrail_id ON guardrail_configs (guardrail_id);
CREATE INDEX idx_model_version_tags_workspace_name_version ON model_version_tags (workspace, name, version);
CREATE INDEX idx_registered_model_tags_workspace_name ON registered_model_tags (workspace, name);
CREATE INDEX index_label_schemas_experiment_id ON label_schemas (experiment_id);
CREATE INDEX index_review_queues_experiment_id ON review_queues (experiment_id);
CREATE INDEX index_review_queue_users_user_id ON review_queue_users (user_id);
CREATE INDEX index_review_queue_items_queue_id_status ON review_queue_items (queue_id, status);
CREATE INDEX index_review_queue_items_item_id ON review_queue_items (item_id);
CREATE INDEX index_review_queue_label_schemas_schema_id ON review_queue_label_schemas (schema_id);
CREATE INDEX idx_mcp_server_versions_latest ON mcp_server_versions (workspace, name, status, version_major DESC, version_minor DESC, version_patch DESC);
CREATE INDEX ix_mcp_access_endpoints_server_name ON mcp_access_endpoints (workspace, server_name);
CREATE INDEX ix_mcp_access_endpoints_version ON mcp_access_endpoints (workspace, server_name, server_version);
CREATE INDEX ix_mcp_access_endpoints_alias ON mcp_access_endpoints (workspace, server_name, server_alias);
CREATE INDEX idx_budget_policies_target_value ON budget_policies (target_value);
CREATE INDEX index_trace_info_experiment_id_timestamp_ms ON trace_info (experiment_id, timestamp_ms);
CREATE INDEX index_trace_info_timestamp_ms_request_id ON trace_info (timestamp_ms, request_id);
CREATE INDEX index_assessments_last_updated_timestamp ON assessments (last_updated_timestamp);
CREATE INDEX index_assessments_trace_id_created_timestamp ON assessments (trace_id, created_timestamp);
CREATE INDEX index_assessments_run_id_created_timestamp ON assessments (run_id, created_timestamp);
CREATE INDEX index_assessments_assessment_type ON assessments (assessment_type);
CREATE INDEX index_spans_experiment_id_duration ON spans (experiment_id, duration_ns);
CREATE INDEX index_spans_experiment_id_status_type ON spans (experiment_id, status, type);
CREATE INDEX index_spans_experiment_id_type_status ON spans (experiment_id, type, status);
CREATE INDEX index_spans_experiment_id_start_time ON spans (experiment_id, start_time_unix_nano);
CREATE INDEX index_trace_info_experiment_id_session_id ON trace_info (experiment_id, session_id);
CREATE INDEX idx_trace_rollups_lookup ON sql_trace_metric_daily_rollups (experiment_id, rollup_day, metric_name, grouping_set, trace_status);
CREATE INDEX idx_span_cost_rollups_lookup ON sql_span_cost_daily_rollups (experiment_id, rollup_day, metric_name, grouping_set, model_name, model_provider);
CREATE INDEX idx_assessment_rollups_lookup ON sql_assessment_daily_rollups (experiment_id, rollup_day, metric_name, grouping_set);
CREATE INDEX idx_spans_cost_trace_time_cover ON spans (trace_id, start_time_unix_nano);
CREATE INDEX idx_spans_cost_exp_time_cover ON spans (experiment_id, start_time_unix_nano);
CREATE INDEX idx_assessments_exp_trace_ts ON assessments (experiment_id, trace_timestamp_ms);
CREATE INDEX idx_assessments_exp_trace_ts_name ON assessments (experiment_id, trace_timestamp_ms, name);
CREATE INDEX idx_assessments_exp_name_valid ON assessments (experiment_id, name, valid);
CREATE INDEX index_job_locks_job_id ON job_locks (job_id);
CREATE INDEX index_jobs_status_lease_expires_at ON jobs (status, lease_expires_at);
COMMIT;
