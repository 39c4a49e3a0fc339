{% test null_rate_below(model, column_name, threshold) %}

{%- if threshold <= 0 or threshold > 1 %}
    {%- do exceptions.raise_compiler_error(
        'null_rate_below of ' ~ column_name ~ ': threshold is a share above 0'
        ~ ' and up to 1, not ' ~ threshold
        ~ '; where no null is allowed, use not_null'
    ) %}
{%- endif %}

with counted as (

    select
        count(*) as row_count,
        count(*) - count({{ column_name }}) as null_count
    from {{ model }}

)

select
    row_count,
    null_count,
    1.0 * null_count / row_count as null_rate,
    {{ threshold }} as threshold
from counted
where row_count > 0 and null_count >= {{ threshold }} * row_count

{% endtest %}
