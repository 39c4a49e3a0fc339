{% macro counted_by(test) -%}
    {%- set tested = test.depends_on.nodes | first %}
    {%- set node = graph.nodes.get(tested) or graph.sources.get(tested) %}
    {%- if not node.relation_name %}
        {%- do exceptions.raise_compiler_error(
            'row_count_change_within: ' ~ node.name ~ ' is ephemeral and has'
            ~ ' no rows of its own to count; test a model that reads it'
        ) %}
    {%- endif %}
    {%- set where = ' where ' ~ test.config.where if test.config.where else '' %}
    {%- set table = node.schema ~ '.' ~ (node.alias or node.identifier) %}
    {{ return({
        'name': table ~ where,
        'query': 'select count(*) as row_count from '
            ~ node.relation_name ~ where,
    }) }}
{%- endmacro %}
