{% macro record_row_counts(results) -%}

{%- set passed = {} %}
{%- set others = [] %}
{%- for result in results if execute %}
    {%- set test = result.node.test_metadata %}
    {%- if test and test.name == 'row_count_change_within' %}
        {%- set counted = counted_by(result.node) %}
        {%- if result.status == 'pass' %}
            {%- do passed.update({counted.name: counted.query}) %}
        {%- else %}
            {%- do others.append(counted.name) %}
        {%- endif %}
    {%- endif %}
{%- endfor %}

{#- Two tests of one table, one that warns early and one that fails late: what
    passes the one does not silence the other. -#}
{%- for name in others %}
    {%- do passed.pop(name, none) %}
{%- endfor %}

{%- if passed %}
    {%- set counts = row_counts() %}
    {%- do adapter.create_schema(counts) %}
    {%- do run_query(create_row_counts_sql(counts)) %}

insert into {{ counts }} (counted, row_count, invocation_id, run_started_at)
with present as (

    {%- for name, query in passed.items() %}
    {%- set name = dbt.escape_single_quotes(name) %}
    select
        {{ dbt.string_literal(name) }} as counted,
        ({{ query }}) as row_count
    {{- ' union all' if not loop.last }}
    {%- endfor %}

),

ranked as (

    select
        counted,
        row_count,
        row_number() over (
            partition by counted
            order by run_started_at desc
        ) as recency
    from {{ counts }}

)

select
    present.counted,
    present.row_count,
    '{{ invocation_id }}' as invocation_id,
    cast(
        '{{ run_started_at.strftime("%Y-%m-%d %H:%M:%S.%f") }}'
        as {{ dbt.type_timestamp() }}
    ) as run_started_at
from present
left join ranked
    on present.counted = ranked.counted and ranked.recency = 1
where ranked.row_count is null or ranked.row_count <> present.row_count
{%- endif %}

{%- endmacro %}
