{% macro follow_types(new, target) -%}

{%- set types = {} %}
{%- for column in adapter.get_columns_in_relation(target) %}
    {%- do types.update({column.name | lower: column.data_type}) %}
{%- endfor %}

{%- for column in adapter.get_columns_in_relation(new) %}
    {%- set before = types.get(column.name | lower, column.data_type) %}
    {%- if before != column.data_type
        and not change_type(target, column.quoted, before, column.data_type) %}
        {%- set what = target.schema ~ '.' ~ target.identifier ~ ': column '
            ~ column.name ~ ' is ' ~ before ~ ' in the table and '
            ~ column.data_type ~ ' in what is to be added, which cannot hold'
            ~ ' every value that is there; nothing was changed. ' %}
        {%- if model.resource_type == 'model'
            and config.get('full_refresh') is not false %}
            {%- set way_out = 'Build the model whole: dbt build --full-refresh'
                ~ ' --select ' ~ model.name ~ '+' %}
        {%- else %}
            {%- set way_out = 'Its past cannot be built again: cast the column'
                ~ ' to ' ~ before ~ ' in the model that it reads, or convert the'
                ~ ' table by hand (alter table)' %}
        {%- endif %}
        {%- do exceptions.raise_compiler_error(what ~ way_out) %}
    {%- endif %}
{%- endfor %}

{%- endmacro %}
